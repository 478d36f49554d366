"""`shoal up`, `shoal join` and `shoal key` where something is wrong: one line, and nothing left behind."""

import pytest

pytest.importorskip("iroh", reason="iroh is not installed")

FILE = 'protocol = "gossip:steps=1"\ntask = "digits"\npeers = 3\nrounds = 1\n'


@pytest.fixture
def file(tmp_path):
    """Write an experiment file; returns its name."""

    def write(more="", text=FILE):
        (tmp_path / "e.toml").write_text(text + more)
        return "e.toml"

    return write


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--id", 3], "id: got 3; a number from 0 to 2 is allowed"),
        (["--http", "somewhere"], "http: got 'somewhere'; HOST:PORT, as in 127.0.0.1:8080, or off is allowed"),
        (["--http", "127.0.0.1:99999"], "http: got '127.0.0.1:99999'"),
        (["--bind", "somewhere"], "net: bind: got 'somewhere'"),
        (["--bind", "203.0.113.1:9"], "bind: cannot listen at 203.0.113.1:9"),
        (["--data", "none.npz"], "none.npz: No such file"),
        (["--device", "cuda:99"], "device: got 'cuda:99'"),
    ],
)
def test_what_up_cannot_do_is_said_in_a_line(shoal, file, tmp_path, words, says):
    outcome = shoal("up", file(), *words)
    assert outcome.complaint.startswith(says)
    assert not list(tmp_path.glob("runs/.peers/*"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('protocol = "centralised"\ntask = "digits"\npeers = 3\n', "needs no network; use `shoal run`"),
        (FILE + "[net]\nbeta = 1\n", "e.toml: net: 'beta' is unknown; did you mean 'beat'?"),
        (FILE + "[net]\nbeat = 0\n", "e.toml: net: beat: got 0"),
        (FILE + "[net]\ndead = 1\n", "e.toml: net: dead: got 1"),
        (FILE + '[net]\nrelays = ["ftp://x"]\n', "e.toml: net: relays: got"),
        (FILE + '[net]\nallow = ["abc"]\n', "e.toml: net: allow: got 'abc'"),
        ("net = 3\n" + FILE, "e.toml: 'net' is not a setting"),
        (FILE + "[more]\nx = 1\n", "e.toml: [more] is a table"),
    ],
)
def test_what_a_file_must_not_say_is_said_in_a_line(shoal, file, text, says):
    assert says in shoal("up", file(text=text)).complaint


def test_the_table_net_means_nothing_to_a_simulation(shoal, file):
    assert shoal("run", file("[net]\nbeat = 0.5\n")).code == 0


def test_a_page_where_none_can_be_is_refused(shoal, file):
    outcome = shoal("up", file(), "--http", "203.0.113.1:8080")
    assert outcome.code == 2
    assert "203.0.113.1:8080" in outcome.err.splitlines()[-1]


@pytest.mark.parametrize("ticket", ["", "shoal", "shoal1abc", "nothing", "shoal1" + "a" * 9000])
def test_bad_tickets_are_refused(shoal, ticket):
    assert shoal("join", ticket).complaint.startswith("ticket: ")


def test_keys_are_made_once_and_told(shoal, tmp_path):
    first = shoal("key", "mine.key")
    assert first.code == 0
    assert len(bytes.fromhex(first.out.strip())) == 32
    assert shoal("key", "mine.key").out == first.out
    assert shoal("key", "other.key").out != first.out
    (tmp_path / "bad.key").write_bytes(b"short")
    (tmp_path / "bad.key").chmod(0o600)
    assert shoal("key", "bad.key").complaint == "bad.key: has 5 bytes; a secret key has 32"


def test_without_iroh_what_to_install_is_said(shoal, file, monkeypatch):
    from shoal.net.iroh import binding

    binding.load.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "iroh", None)
    try:
        assert "pip install 'shoal[net]'" in shoal("up", file()).complaint
    finally:
        binding.load.cache_clear()

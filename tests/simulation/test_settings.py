"""Settings: what is allowed, and that every refusal is one line naming setting, value and what would do."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import names
from shoal.simulation import Settings

WRONG = [
    ({"ruonds": 3}, "'ruonds' is not a setting; did you mean 'rounds'?"),
    ({"zzz": 3}, "'zzz' is not a setting; allowed are protocol, task,"),
    ({"peers": 0}, "peers: got 0; a whole number >= 1 and <= 1000000 is allowed"),
    ({"peers": "x"}, "peers: got 'x'; a whole number >= 1"),
    ({"peers": 2.5}, "peers: got 2.5; a whole number >= 1"),
    ({"peers": True}, "peers: got True; a whole number >= 1"),
    ({"peers": None}, "peers: got None; "),
    ({"batch": -1}, "batch: got -1; "),
    ({"rounds": -1}, "rounds: got -1; "),
    ({"seed": -1}, "seed: got -1; a whole number >= 0"),
    ({"seed": 2**63}, "seed: got 9223372036854775808; a whole number >= 0 and < 9223372036854775808 is allowed"),
    ({"lr": 0}, "lr: got 0; a finite number > 0 is allowed"),
    ({"lr": float("nan")}, "lr: got nan; a finite number > 0 is allowed"),
    ({"lr": float("inf")}, "lr: got inf; a finite number > 0 is allowed"),
    ({"until": 0.0}, "until: got 0.0; "),
    ({"until": float("nan")}, "until: got nan; "),
    ({"init": "foo"}, "init: got 'foo'; 'common' or 'independent' is allowed"),
    ({"weights": "metropolis"}, "weights: got 'metropolis'; 'default', 'metropolis-hastings' or"),
    ({"protocol": "gosip"}, "protocol: 'gosip' is unknown; did you mean 'gossip'?"),
    ({"model": "mpl"}, "model: 'mpl' is unknown; did you mean 'mlp'?"),
    ({"peers": 4, "relays": (4,)}, "relays: got 4; peers are 0 to 3"),
    ({"peers": 4, "relays": "x"}, "relays: got 'x'; a list of whole numbers is allowed"),
    ({"peers": 4, "relays": (1, 1)}, "relays: got (1, 1); each peer may be named once"),
    ({"peers": 2, "relays": "0,1"}, "relays: got all 2 peers"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[message[:24] for _, message in WRONG])
def test_refusals_are_one_line_with_setting_value_and_what_is_allowed(values, message):
    with pytest.raises(ValueError) as caught:
        Settings.of(**values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_the_seed_range_is_closed_below_and_open_above(seed):
    assert Settings.of(seed=seed).seed == seed


@pytest.mark.parametrize("kind", names.KINDS)
def test_every_kind_of_name_is_a_setting_and_is_checked(kind):
    with pytest.raises(ValueError, match=f"^{kind}: 'no such thing' is unknown"):
        Settings.of(**{kind: "no such thing"})


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "peers": st.integers(5, 1000),
            "rounds": st.integers(0, 10**6),
            "batch": st.integers(0, 512),
            "seed": st.integers(0, 2**63 - 1),
            "lr": st.none() | st.floats(1e-9, 1e9),
            "init": st.sampled_from(["common", "independent"]),
            "relays": st.lists(st.integers(0, 4), unique=True, max_size=3).map(tuple),
            "partition": st.sampled_from(["iid", "dirichlet:0.3", "shards:per_peer=2"]),
        },
    )
)
def test_settings_survive_being_written_down(values):
    settings = Settings.of(**values)
    assert Settings.of(**settings.model_dump()) == settings
    assert all(getattr(settings, name) == value for name, value in values.items())


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError):
        Settings.of().peers = 3


def test_relays_may_be_text():
    assert Settings.of(relays="0, 3,").relays == (0, 3)


# -- files ---------------------------------------------------------------------------------------------------


def test_a_file_gives_its_keys_with_hyphens_as_underscores(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('protocol = "dsgd"\neval-samples = 5\nrelays = [1, 2]\nname = "n"\nout = "o"\ntrace = true\n')
    read = Settings.read(path)
    assert read == {
        "protocol": "dsgd", "eval_samples": 5, "relays": [1, 2], "name": "n", "out": "o", "trace": True,
    }  # fmt: skip
    del read["name"], read["out"]
    assert Settings.of(**read).relays == (1, 2)


BAD_FILES = [
    (b"peers = \n", "not TOML: Invalid value (at line 1"),
    (b"\xff\xfe\x00", "not TOML: "),
    (b"ruonds = 3\n", "'ruonds' is not a setting; did you mean 'rounds'?"),
    (b"[run]\npeers = 3\n", "[run] is a table; settings stand at the top"),
    (b"network = 5\n", "network: got 5; text in quotes is allowed"),
    (b"out = 5\n", "out: got 5; text in quotes is allowed"),
    (b'partition = ["iid"]\n', "partition: got ['iid']; text in quotes is allowed"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES, ids=[message[:24] for _, message in BAD_FILES])
def test_a_wrong_file_is_named(tmp_path, content, message):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        Settings.read(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nope\.toml: No such file"):
        Settings.read(tmp_path / "nope.toml")
    with pytest.raises(ValueError, match="Is a directory"):
        Settings.read(tmp_path)


@given(st.dictionaries(st.sampled_from(["peers", "rounds", "batch", "seed"]), st.integers(1, 2**40), max_size=4))
def test_a_file_says_what_keywords_say(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("settings") / "run.toml"
    path.write_text("".join(f"{name} = {value}\n" for name, value in values.items()))
    assert Settings.read(path) == values == tomllib.loads(path.read_text())

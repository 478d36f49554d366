"""Bad input gets one line that names what was given and what is allowed, exit code 2, and leaves nothing behind."""

import pytest

USAGE = [
    (["--bogus"], "no such option: --bogus", "see `shoal --help`"),
    (["frobnicate"], "no such command 'frobnicate'", "see `shoal --help`"),
    (["run"], "missing argument 'protocol'", "see `shoal run --help`"),
    (["run", "gossip", "--tsk", "digits"], "no such option: --tsk", "--task"),
    (["run", "gossip", "--peers", "x"], "--peers: got 'x'; a whole number is allowed; ", "see `shoal run --help`"),
    (["run", "gossip", "--peers=x"], "--peers: got 'x'; a whole number is allowed; ", ""),
    (["run", "gossip", "-n", "2.5"], "--peers: got '2.5'; a whole number is allowed; ", ""),
    (["run", "gossip", "--until", "soon"], "--until: got 'soon'; a number is allowed; ", ""),
    (["optim", "compare", "adamw", "--steps", "many"], "--steps: got 'many'; a whole number is allowed; ", ""),
    (["run", "gossip", "--lr"], "option '--lr' requires an argument", ""),
    (["run", "a", "b"], "got unexpected extra argument", "see `shoal run --help`"),
    (["demo", "--rounds", "x"], "--rounds: got 'x'; a whole number is allowed; ", ""),
    (["compare"], "missing argument", "see `shoal compare --help`"),
]


@pytest.mark.parametrize(("words", "message", "help"), USAGE, ids=[" ".join(words) for words, _, _ in USAGE])
def test_wrong_usage(shoal, words, message, help):
    complaint = shoal(*words).complaint
    assert complaint.startswith(message)
    assert help in complaint


RUNS = [
    (["gosip"], "protocol: 'gosip' is unknown; did you mean 'gossip'?"),
    (["gossip", "--task", "digit"], "task: 'digit' is unknown; did you mean 'digits'?"),
    (["gossip", "--topology", "rign"], "topology: 'rign' is unknown; did you mean 'ring'?"),
    (["gossip", "--network", "foo"], "network: 'foo' is unknown; allowed are ideal, lan,"),
    (["gossip", "--peers", 5000], "partition: iid: peers must be from 1 to 1442, got 5000"),
    (["gossip", "--peers", 0], "peers: got 0; a whole number >= 1 and <= 1000000 is allowed"),
    (["gossip", "--topology", "torus", "--peers", 7], "topology: torus: n must not be prime"),
    (["gossip", "--topology", "watts-strogatz:4,0.1,3"], "topology: 'watts-strogatz:4,0.1,3' has an unexpected"),
    (["gossip", "--topology", "erdos-renyi:p=2"], "topology: erdos-renyi:p=2: p must be a number in 0 .. 1, got 2"),
    (["gossip", "--topology", "file:nope.txt"], "topology: cannot read nope.txt: No such file"),
    (["gossip", "--partition", "dirichlet:0"], "partition: dirichlet:0: alpha must be above 0 and finite, got 0"),
    (["gossip", "--partition", "dirichlet:x"], "partition: dirichlet: alpha: got 'x'; a number is allowed"),
    (["gossip", "--partition", "shards:1000"], "partition: shards:1000: per_peer must be from 1 to 360, got 1000"),
    (["gossip", "--batch", -1], "batch: got -1; a whole number >= 0 is allowed"),
    (["gossip", "--lr", "nan"], "lr: got nan; a finite number > 0 is allowed"),
    (["gossip", "--lr", -1], "lr: got -1.0; a finite number > 0 is allowed"),
    (["gossip", "--seed", -1], "seed: got -1; a whole number >= 0"),
    (["gossip", "--seed", 2**63], f"seed: got {2**63}; a whole number >= 0 and < {2**63} is allowed"),
    (["gossip", "--until", 0], "until: got 0.0; a finite number > 0 is allowed"),
    (["gossip", "--device", "tpu"], "device: got 'tpu'; cpu, or a device of this machine, is allowed"),
    (["gossip", "--model", "mlp:hidden=x"], "model: mlp: hidden: got 'x'; a whole number is allowed"),
    (["gossip", "--task", "text", "--model", "cnn"], "task: text/cnn: model, data and loss do not fit: RuntimeError"),
    (["gossip", "--optimizer", "sgd:momentum=2"], "optimizer: sgd:momentum=2: momentum: got 2; a number in [0, 1)"),
    (
        ["gossip", "--optimizer", "mup"],
        "optimizer: 'mup' needs the model and a narrow one of its kind, in Python: `shoal",
    ),
    (
        ["gossip", "--optimizer", "muP+adamw:lr=1"],
        "optimizer: 'muP' needs the model and a narrow one of its kind, in Py",
    ),
    (["gossip", "--devices", "stragglers:2"], "devices: stragglers:2: share: got 2; a fraction in [0, 1]"),
    (["gossip", "--faults", "random:crashes=2"], "faults: random:crashes=2: crashes: got 2; a share in [0, 1]"),
    (["gossip", "--faults", "file:nope.toml"], "faults: cannot read nope.toml: No such file"),
    (["gossip", "--attack", "zero:1.5"], "attack: got a share of 1.5; a number in [0, 1) is allowed"),
    (["gossip", "--attack", "zero:0.1"], "attack: zero:0.1: a share of 0.1 of 4 peers is nobody"),
    (["gossip:steps=x"], "protocol: gossip: steps: got 'x'; a whole number is allowed"),
    (["fedavg:fraction=2"], "protocol: fedavg:fraction=2: fraction: got 2; a number in (0, 1] is allowed"),
    (["gossip", "--relays", 9], "relays: got 9; peers are 0 to 3"),
    (["isolated", "--relays", 1], "isolated needs data at every peer, and peer 1 is to be a relay"),
    (["gossip", "--weights", "x"], "weights: got 'x'; 'default', 'metropolis-hastings' or 'uniform' is allowed"),
    (["gossip", "--name", "../b"], "name: got '../b'; 1 to 100 printable characters without / and \\ are allowed"),
    (["gossip", "--workers", -1], "workers: got -1; a whole number >= 0 is allowed"),
    (["gossip", "--eval-samples", 0], "eval_samples: got 0; a whole number >= 1 is allowed"),
    (["nope.toml"], "nope.toml: No such file"),
]


@pytest.mark.parametrize(("words", "message"), RUNS, ids=[" ".join(map(str, words)) for words, _ in RUNS])
def test_an_impossible_run(shoal, tmp_path, words, message):
    protocol, *more = words
    outcome = shoal("run", protocol, "--task", "digits", "--rounds", 2, "--peers", 4, *more)
    assert outcome.complaint.startswith(message)
    assert list(tmp_path.iterdir()) == []


FILES = [
    ("peers = \n", "run.toml: not TOML: Invalid value (at line 1"),
    ("ruonds = 3\n", "run.toml: 'ruonds' is not a setting; did you mean 'rounds'?"),
    ("[run]\npeers = 3\n", "run.toml: [run] is a table"),
    ("peers = 'x'\n", "peers: got 'x'; "),
    ("peers = true\n", "peers: got True; a whole number >= 1"),
    ("lr = [1]\n", "lr: got [1]; a finite number > 0 is allowed"),
    ("trace = 'often'\n", "trace: got 'often'; True or False is allowed"),
    ("relays = [1.5]\n", "relays: got 1.5; a list of whole numbers is allowed"),
    ("compute = 3\n", "compute: got 3; text is allowed"),
    ("protocol = 'gosip'\n", "protocol: 'gosip' is unknown; did you mean 'gossip'?"),
    ("network = 5\n", "run.toml: network: got 5; text in quotes is allowed"),
]


@pytest.mark.parametrize(("content", "message"), FILES, ids=[content.strip() for content, _ in FILES])
def test_a_wrong_settings_file(shoal, tmp_path, content, message):
    (tmp_path / "run.toml").write_text(content)
    assert shoal("run", "run.toml").complaint.startswith(message)


def test_a_disconnected_topology(small, tmp_path):
    (tmp_path / "islands.txt").write_text("0 1\n2 3\n")
    assert small("gossip", "--topology", "file:islands.txt").complaint.startswith(
        "topology: islands is not connected; choose another or another seed, or say `disconnected`"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "nope"], "nope does not exist"),
        (["report", "nope"], "nope does not exist"),
        (["export", "nope"], "nope does not exist"),
        (["compare", "empty"], "empty is not a run folder and holds none: no run.json in it or below it"),
        (["export", "empty"], "empty is not a run folder: it has no run.json"),
        (["compare", "torn"], "torn/run.json is not JSON: "),
        (["export", "empty", "--to", "xls"], "to: got 'xls'; allowed are csv, parquet, tensorboard"),
        (["export", "empty", "--to", "parket"], "to: got 'parket'; did you mean 'parquet'?"),
        (["list", "protocl"], "kind: 'protocl' is unknown; did you mean 'protocol'?"),
        (["papers", "--kind", "federatd"], "kind: 'federatd' is unknown; did you mean 'federated'?"),
        (["papers", "--state", "zzz"], "state: 'zzz' is unknown; allowed are holds, partly, does not hold, not yet"),
        (["reproduce"], "name one publication, or give --all"),
        (["reproduce", "fedavg", "--all"], "name one publication, or give --all"),
        (["reproduce", "fedavgg"], "no publication 'fedavgg': did you mean 'fedavg'"),
        (["reproduce", "999"], "no publication '999': numbers run from 1 to 165"),
        (["reproduce", "fedavg", "--scale", "big"], "scale: got 'big'; allowed are check, full"),
        (["reproduce", "fedavg", "--store"], "store: only results of --scale full are stored"),
    ],
)
def test_wrong_paths_and_names_of_other_commands(shoal, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text('{"format": 1, "prot')
    assert shoal(*words).complaint.startswith(message)


def test_a_place_that_cannot_be_written_is_named_as_it_was_given(shoal, small, tmp_path):
    (tmp_path / "file").write_text("")
    assert small("gossip", "--out", "file/runs").complaint == "out: cannot write to file/runs: Not a directory"
    small("isolated:steps=0", "--name", "x")
    for command in (["report"], ["compare"], ["export"]):
        outcome = shoal(*command, "runs/x-001", "--out", "file/x")
        assert outcome.code == 2
        assert outcome.err.startswith("shoal: out: cannot write file/x: ")
        assert outcome.err.count("\n") == 1

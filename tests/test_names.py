"""What can be named, and how names with arguments are read."""

import inspect

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shoal import names
from shoal.optim import Param

EVERYTHING = [(kind, name) for kind, table in names.KINDS.items() for name in table]
keys = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
values = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.from_regex(r"[a-z./][a-z./-]{0,8}", fullmatch=True).filter(
        lambda text: text not in ("true", "false", "none", "inf", "nan", "infinity")
    ),
)


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_every_name_leads_to_something_that_takes_its_positional_arguments(kind, name):
    entry = names.KINDS[kind][name]
    parameters = inspect.signature(entry.load()).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert free or set(entry.positional) <= set(parameters)
    assert entry.help
    assert "\n" not in entry.help


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_names_are_lower_case_words_joined_by_hyphens(kind, name):
    assert name == name.lower()
    assert all(word.isalnum() for word in name.split("-"))


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_the_bare_name_has_no_arguments(kind, name):
    spec = names.parse(kind, f"  {name} ")
    assert (spec.kind, spec.name, spec.arguments) == (kind, name, {})


@given(st.sampled_from([(k, n) for k, n in EVERYTHING if len(n) > 4]), st.data())
def test_a_name_with_a_letter_missing_is_answered_with_a_close_one(which, data):
    kind, name = which
    place = data.draw(st.integers(0, len(name) - 1))
    typed = name[:place] + name[place + 1 :]
    assume(typed.replace("-", "") not in {other.replace("-", "") for other in names.KINDS[kind]})  # adamw, adam-mini
    with pytest.raises(ValueError, match=f"^{kind}: .* is unknown; did you mean '") as caught:
        names.parse(kind, typed)
    assert caught.value.args[0].split("'")[-2] in names.KINDS[kind]


def test_without_a_close_one_all_are_listed():
    with pytest.raises(ValueError, match=r"allowed are ideal, lan, wan, broadband, mobile, datacentre$"):
        names.parse("network", "zzz")


@given(st.dictionaries(keys, values, max_size=4))
def test_named_arguments_come_back_as_they_were_written(arguments):
    written = ",".join(f"{key}={value}" for key, value in arguments.items())
    spec = names.parse("topology", f"ring:{written}")
    assert spec.arguments == arguments
    assert list(map(type, spec.arguments.values())) == list(map(type, arguments.values()))


@given(st.integers(2, 50), st.floats(0, 1))
def test_arguments_by_place_and_by_name_are_the_same(k, p):
    by_place = names.parse("topology", f"watts-strogatz:{k},{p}")
    assert by_place.arguments == names.parse("topology", f"watts-strogatz: p = {p} , k={k}").arguments


def test_hyphens_in_argument_names_are_underscores():
    assert names.parse("partition", "shards:per-peer=3").arguments == {"per_peer": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("watts-strogatz:4,0.1,3", "unexpected value '3'; watts-strogatz takes k, p"),
        ("ring:4", "unexpected value '4'; ring takes no value without a name"),
        ("watts-strogatz:k=4,k=3", "gives k twice"),
        ("watts-strogatz:4,k=3", "gives k twice"),
        ("", "'' is unknown"),
    ],
)
def test_malformed_specifications_say_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=r"^topology: ") as caught:
        names.parse("topology", text)
    assert message in str(caught.value)


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_case_and_hyphens_do_not_matter(kind, name):
    for typed in (name.upper(), name.replace("-", ""), name.replace("-", "_").title()):
        assert names.parse(kind, typed).name == name


def test_wrappers_stand_before_an_optimizer():
    spec = names.parse("optimizer", "Lookahead+cautious+AdamW:1e-2,k=7,scaling=mean")
    assert spec.name == "lookahead+cautious+adamw"
    rule = names.call(spec)
    chain = [repr(link) for link in rule.plan(Param("w", (3, 2))).chain]
    assert rule.lr == 0.01
    assert chain[0] == "SlowWeights(k=7, alpha=0.5)"
    assert chain[-1] == "CautiousMask(scaling='mean')"


def test_settings_that_both_have_are_the_optimizers():
    rule = names.call(names.parse("optimizer", "lookahead+rmsprop:alpha=0.7"))
    chain = repr(rule.plan(Param("w", (3, 2))).chain)
    assert "SlowWeights(k=5, alpha=0.5)" in chain
    assert "0.7" in chain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lookahead", "'lookahead' goes around another one, as in lookahead+adamw"),
        ("lookahed+adamw", "'lookahed' is no wrapper; did you mean 'lookahead'?"),
        ("lookahead+adamww", "'adamww' is unknown; did you mean 'adamw'?"),
    ],
)
def test_wrong_combinations_say_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=r"^optimizer: ") as caught:
        names.parse("optimizer", text)
    assert message in str(caught.value)


def test_a_call_puts_its_arguments_before_the_defaults_of_the_caller():
    topology = names.call(names.parse("topology", "erdos-renyi:p=1.0,seed=4"), 6, seed=0)
    assert len(topology.edges()) == 6 * 5 / 2


def test_a_call_with_an_unknown_argument_names_it():
    with pytest.raises(ValueError, match=r"^topology: ring: .*'rows'"):
        names.call(names.parse("topology", "ring:rows=3"), 6)


def test_errors_of_what_was_called_pass_through():
    entry = names.Entry("tests.test_names:_fails", "fails")
    with pytest.raises(TypeError, match="unsupported operand"):
        names.call(names.Spec("task", "fails", entry, {}))


def _fails():
    return 1 + "1"

"Ways in that strangers' files have tried: what a name in them may lead to"

import sys

import pytest

from qebias.core import QebiasError

PLANTED = "planted_by_a_test"


@pytest.fixture
def planted(tmp_path, monkeypatch):
    "A module that says when it is imported, where `import` finds it"
    (tmp_path / f"{PLANTED}.py").write_text(f"open({str(tmp_path / 'told')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop(PLANTED, None)


PROFILE = """
train: sample
evaluate: {sample: sample}
methods: [arcnn]
items: [fig1]
"""
TERM = "training: {fidelity: {terms: [{name: x, function: '%s', options: {%s}}]}}"
NAMED = {
    "is not known here": TERM % ("qebias.later:Later", f"name: {PLANTED}"),
    "is not known here: there are qebias.losses:L1": TERM % ("qebias.core:imported", "what: x"),
    "is no network": "networks: {ARCNN: {class: 'qebias.features:Psi', kwargs: {layers: [conv1_1]}}}",
    "is no codec": "codecs: {'qebias.core:require': [1]}",
    "no metric is called": "metrics: ['qebias.later:Later']",
}


@pytest.mark.parametrize("words", NAMED)
def test_a_name_of_the_package_in_a_profile_leads_to_a_term_a_network_a_codec_or_a_metric(planted, words):
    "It needs no trust: so it may lead to nothing that imports or runs another"
    from qebias.study.estimate import dry_run
    from qebias.study.preflight import resolve

    path = planted / "stranger.yaml"
    path.write_text(f"{PROFILE}{NAMED[words]}\n")
    try:
        said = dry_run(resolve(str(path), out=planted / "run"), [])[-1]
    except QebiasError as error:
        said = str(error)
    assert words in said and not (planted / "told").exists()


def test_the_terms_of_the_package_are_those_that_may_be_named():
    from qebias.losses import TERMS, find_term

    assert all(callable(find_term(name)) for name in TERMS)
    for name in ("qebias.losses:find_term", "qebias.losses:_Function", "qebias.core:require"):
        with pytest.raises(QebiasError, match="is not known here"):
            find_term(name)

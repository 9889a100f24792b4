"""What a computed column contains, held by numbers of a first day: when they change, its format has another version."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxalign.data import prepared as preparing
from jaxalign.data.rows import store
from jaxalign.scoring import columns, scorer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "computed_columns.json").read_text())
ROWS = [
    {"prompt": "Once upon a time", "chosen": " there was a cat.", "rejected": " the the the."},
    {"prompt": "Lily saw a dog.", "chosen": " She was happy.", "rejected": " Big."},
    {"prompt": "The sun", "chosen": " is hot and bright today.", "rejected": " is a tree"},
]


@pytest.fixture
def prepared(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    options = dict(template="plain", row_tokens=96, processes=1, quiet=True, out_root=tmp_path / "out", mismatched=True)
    return store.read(preparing.prepare({"path": str(tmp_path / "rows.jsonl")}, tokenizer="package:stories260k", **options))


@pytest.fixture(autouse=True)
def on_one_device():
    with jax.set_mesh(toys.mesh()):
        yield


def shipped(**changes):
    made = scorer.of_source("package:stories260k", dtype=jnp.float32, attention="xla")
    params = jax.tree.map(lambda x: x * changes["scale"], made.params) if changes else made.params
    return scorer.of_model("other", made.model, params, weights=str(changes), dtype=jnp.float32, attention="xla")


def columns_of_today():
    """Column -> its description, of the kinds whose numbers no training run is needed for."""
    return {
        "logps": columns.Column("logps", "logps", [shipped()]),
        "margin": columns.Column("margin", "implicit_reward", [shipped(scale=1.01), shipped()], beta=0.25),
    }


def test_the_numbers_of_a_column_are_those_of_its_version(prepared):
    """The golden file holds sums over each response, made by this very function on the day of its version."""
    assert GOLDEN["version"] == columns.VERSION, "write the golden file anew: the version has been raised"
    for name, column in columns_of_today().items():
        for key, values in columns.compute(column, prepared, rows=3, quiet=True).items():
            expected = np.array(GOLDEN["columns"][key])
            message = f"column {key} has other numbers: raise VERSION in scoring/columns.py and write the golden file anew"
            np.testing.assert_allclose(_summary(values), expected, rtol=1e-4, atol=1e-3, err_msg=f"{name}: {message}")


def test_a_column_on_disk_is_found_again_and_depends_on_its_options_and_version(prepared, monkeypatch):
    def names(**changes):
        column = columns.Column("margin", "implicit_reward", [shipped(scale=1.01), shipped()], **{"beta": 0.25, **changes})
        (made,) = columns.add(column, [prepared], rows=3, quiet=True)
        return made.meta["columns"][-1]

    first = names()
    assert names() == first and names(beta=0.5) != first
    monkeypatch.setattr(columns, "VERSION", columns.VERSION + 1)
    assert names() != first


@pytest.mark.parametrize("kind", columns.KINDS)
def test_an_option_that_a_kind_does_not_read_does_not_change_its_name(kind):
    one, other = (columns.Column("x", kind, [], beta=beta, rewards=rewards) for beta, rewards in ((0.1, ("a",)), (0.2, ("b",))))
    assert (one.options == other.options) == (kind in ("logps", "score"))


def _summary(values):
    """Few numbers that any change of a column shows in: its length, its sum, and its sum weighed by place."""
    known = np.nan_to_num(values).ravel()
    return [len(known), float(known.sum()), float((known * np.arange(len(known))).sum())]

"""Where tables come from: those that scikit-learn brings, and CSV files."""

from __future__ import annotations

import numpy as np

from jaxloss.cli.mistakes import Mistake, unknown
from jaxloss.cli.table import Kind, Table

BUNDLED = ("digits", "diabetes", "breast-cancer", "wine", "iris")


def load(data: str, target: str | None, task: str | None) -> Table:
    """The bundled table of that name, or the one in a CSV file."""
    if task not in (None, "regression", "classification"):
        raise unknown("There is no task", str(task), ("regression", "classification"))
    if data.lower().endswith(".csv"):
        from jaxloss.cli import csvfile

        return csvfile.read(data, target, task)
    if data not in BUNDLED:
        raise unknown("There is no data set", data, (*BUNDLED, "line", "text", "PATH.csv"))
    if target or task:
        given = "--target" if target else "--task"
        raise Mistake(f"{given} is for a CSV file; the target of {data} is known.")
    return _bundled(data)


def _bundled(name: str) -> Table:
    from sklearn import datasets

    options = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name.replace('-', '_')}")(**options)
    kind: Kind = "pixel" if name == "digits" else "number"
    classes = () if name == "diabetes" else tuple(map(str, bunch.target_names))
    what = {"digits": "digit", "diabetes": "disease progression", "iris": "species"}
    return Table(
        name=name,
        columns=tuple(map(str, bunch.feature_names)),
        kinds=(kind,) * bunch.data.shape[1],
        inputs=np.asarray(bunch.data, float),
        target=what.get(name, "class"),
        targets=np.asarray(bunch.target, int if classes else float),
        classes=classes,
    )

"""A table from a CSV file, or one sentence about what is wrong with it."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pandas as pd

from jaxloss.cli.mistakes import Mistake, unknown
from jaxloss.cli.table import Kind, Table

#: A target of whole numbers with at most so many values, each of several rows, is one of classes.
MOST_CLASSES = 10
#: A text column with more values than this is a name or an address, not a category.
MOST_CATEGORIES = 100


def read(path: str, target: str | None, task: str | None) -> Table:
    """Numbers become columns, texts one column for each value, the target numbers or classes.

    Raises:
        Mistake: The file or the target cannot be learnt from.
    """
    frame = _frame(path)
    if target is None:
        raise Mistake(f"{path} needs --target: one of its columns {', '.join(frame.columns)}.")
    if target not in frame.columns:
        raise unknown(f"{path} has no column", target, tuple(frame.columns))
    _refuse_gaps(path, frame)
    targets, classes = _targets(pd.Series(frame[target]), task)
    inputs = {}
    for name in frame.columns.drop(target):
        inputs |= _columns(pd.Series(frame[name]))
    if not inputs:
        raise Mistake(f"{path} has no column beside the target {target!r} to learn from.")
    kinds, values = zip(*inputs.values(), strict=True)
    return Table(
        name=os.path.splitext(os.path.basename(path))[0],
        columns=tuple(inputs),
        kinds=kinds,
        inputs=np.stack(values, axis=1),
        target=target,
        targets=targets,
        classes=classes,
    )


def _frame(path: str) -> pd.DataFrame:
    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            frame = pd.read_csv(path, skipinitialspace=True, index_col=False)
    except FileNotFoundError:
        raise Mistake(f"There is no file {path}.") from None
    except pd.errors.ParserWarning:
        raise Mistake(
            f"{path} has more fields in its rows than in its header: name every column."
        ) from None
    except (OSError, ValueError) as error:
        raise Mistake(f"{path} cannot be read as CSV: {str(error).strip()}.") from None
    if len(frame) < 3:
        rows = f"{len(frame)} row{'' if len(frame) == 1 else 's'}"
        raise Mistake(
            f"{path} has {rows}: training, validation and test need at least one each, and "
            "a model needs many more."
        )
    return frame


def _refuse_gaps(path: str, frame: pd.DataFrame) -> None:
    for name in frame.columns:
        column = frame[name].replace([np.inf, -np.inf], np.nan)
        gaps = np.flatnonzero(column.isna())
        if gaps.size:
            raise Mistake(
                f"{path} has {gaps.size} missing or infinite value{'s' * (gaps.size > 1)} in "
                f"column {name!r}, first in row {gaps[0] + 1}: fill or drop such rows."
            )


def _targets(column: pd.Series, task: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    if column.nunique() == 1:
        raise Mistake(f"The target {column.name!r} is constant: there is nothing to learn.")
    numeric = _is_numeric(column)
    if task != "classification" and not numeric:
        _refuse_mixed(column)
    if task == "regression" and not numeric:
        raise Mistake(
            f"The target {column.name!r} is text, such as {column.iloc[0]!r}: a regression needs "
            "numbers; leave --task out to learn classes."
        )
    whole = numeric and bool((column % 1 == 0).all())
    few = whole and column.nunique() <= min(MOST_CLASSES, len(column) / 2)
    if task == "regression" or (task is None and numeric and not few):
        return column.to_numpy(float), ()
    values, classes = pd.factorize(column, sort=True)
    if len(classes) > len(column) / 2:
        raise Mistake(
            f"The target {column.name!r} has {len(classes)} classes in {len(column)} rows: a "
            "class needs several rows; --task regression learns numbers."
        )
    return values, tuple(map(str, classes))


def _columns(column: pd.Series) -> dict[str, tuple[Kind, np.ndarray]]:
    if _is_numeric(column):
        return {str(column.name): ("number", column.to_numpy(float))}
    _refuse_mixed(column)
    if column.nunique() > MOST_CATEGORIES:
        raise Mistake(
            f"Column {column.name!r} has {column.nunique()} different texts: more than "
            f"{MOST_CATEGORIES} are no categories; drop the column."
        )
    values = sorted(column.astype(str).unique())
    matches = {value: column.astype(str).to_numpy() == value for value in values}
    return {f"{column.name}={v}": ("category", match.astype(float)) for v, match in matches.items()}


def _is_numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _refuse_mixed(column: pd.Series) -> None:
    texts = np.flatnonzero(pd.Series(pd.to_numeric(column, errors="coerce")).isna())
    if 0 < texts.size < len(column) / 2:
        first = texts[0]
        raise Mistake(
            f"Column {column.name!r} holds numbers, but row {first + 1} has the text "
            f"{column.iloc[first]!r}."
        )

"""docs/circuits.md has the numbers that were measured, and the pictures that were drawn."""

import json

from scripts import make_circuits_page as script


def test_the_page_has_what_was_measured() -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    rows = json.loads(script.NUMBERS.read_text(encoding="utf-8"))
    assert f"{script.BEGIN}\n{script.table(rows)}{script.END}" in page
    assert [row["dataset"] for row in rows] == list(script.DATASETS)
    for name in ("circuit_ioi.png", "circuit_comparison.png"):
        assert f"images/{name}" in page
        assert (script.IMAGES / name).is_file()


def test_the_bundled_model_keeps_copying_and_ioi_in_a_fifth_of_its_edges() -> None:
    rows = {row["dataset"]: row for row in json.loads(script.NUMBERS.read_text(encoding="utf-8"))}
    for name in ("copying", "ioi"):
        assert rows[name]["faithfulness"][script.SIZES.index(script.SIZE)] >= 0.9

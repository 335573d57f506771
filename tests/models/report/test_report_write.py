"""The files of the results page: all are written, linked and small."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

from models.training.report.write import write_report


def test_pictures_are_written_and_linked(
    small_zoo: Path, stored: dict[str, dict[str, Any]], data_tree: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for stem, record in stored.items():
        (folder / f"{stem}.json").write_text(json.dumps(record))
    kept = write_report(tmp_path, small_zoo, data_tree)
    assert len(kept) == 1
    assert kept[0].startswith("masks-frames.png is left as it is: VOC 2012 not found")
    page = (tmp_path / "results.md").read_text()
    linked = re.findall(r"!\[.+?\]\((.+?)\)", page)
    assert {Path(file).name for file in linked} == {
        "conversion.png",
        "robustness-edge-s.png",
        "robustness-frames.png",
        "firing-rates.png",
        "learning-curves.png",
        "masks.png",
    }
    for file in linked:
        with Image.open(tmp_path / file) as picture:
            assert picture.format == "PNG"
            assert picture.mode == "P"
            assert len(picture.convert("RGB").getcolors(1 << 20) or []) >= 3
        assert (tmp_path / file).stat().st_size < 400_000
    shown = json.loads((folder / "masks.json").read_text())
    assert shown["rows"] == ["events", "truth", "edge-s", "edge-l", "edge-s-ann", "paper-deeplab"]
    assert shown["columns"] == ["0.07 s", "0.13 s"]

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_report(tmp_path, small_zoo, data_tree)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (tmp_path / "results.md").read_text() == page

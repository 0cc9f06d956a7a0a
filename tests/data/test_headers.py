import pytest

import vpt.data.headers
from tests.fixtures import make_image
from vpt.data.headers import read_headers
from vpt.data.images import ImageHeader


@pytest.mark.parametrize("few", [2, 2000])
def test_headers__come_in_order__by_processes_or_not(tmp_path, monkeypatch, few):
    monkeypatch.setattr(vpt.data.headers, "_FEW", few)
    monkeypatch.setattr(vpt.data.headers, "usable_cores", lambda: 2)
    names = [f"{number}.png" for number in range(40)]
    for number, name in enumerate(names):
        make_image(size=(10 + number, 20)).save(tmp_path / name)
    (tmp_path / "bad.png").write_bytes(b"")
    found = list(read_headers(tmp_path, [*names, "none.png", "bad.png"]))
    assert found[-2:] == ["no such file", "empty file (0 bytes)"]
    assert found[:-2] == [ImageHeader((20, 10 + number), 1) for number in range(40)]

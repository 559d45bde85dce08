"""The place of a worker among those of its app on a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowguard.intake import place
from flowguard.intake.place import Place, take_place


@pytest.fixture(autouse=True)
def on_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "filesystem_of", lambda directory: "ext4")


def taken(directory: Path, app: str = "fraud", given: str = "", host: str = "host") -> Place:
    return take_place(str(directory), app, given=given, host=host)


def test_a_worker_that_comes_back_has_the_name_that_it_had(tmp_path: Path) -> None:
    first = taken(tmp_path)
    first.leave()

    again = taken(tmp_path)

    assert again.name == first.name
    assert again.number == 0
    again.leave()


def test_the_second_worker_of_a_machine_has_another_name(tmp_path: Path) -> None:
    places = [taken(tmp_path) for _ in range(3)]

    assert [each.number for each in places] == [0, 1, 2]
    assert len({each.name for each in places}) == 3
    for each in places:
        each.leave()


def test_another_data_directory_app_or_host_is_another_name(tmp_path: Path) -> None:
    places = [
        taken(tmp_path / "a"),
        taken(tmp_path / "b"),
        taken(tmp_path / "a", app="other"),
        taken(tmp_path / "a", host="elsewhere"),
    ]

    assert len({each.name for each in places}) == 4
    for each in places:
        each.leave()


def test_a_name_that_somebody_chose_needs_no_directory(tmp_path: Path) -> None:
    found = taken(tmp_path / "none", given="blue-1")

    assert found == Place("fraud.blue-1")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs", "overlay"])
def test_where_nothing_lasts_the_member_is_dynamic_and_says_why(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "filesystem_of", lambda directory: kind)

    found = taken(tmp_path)

    assert found.name is None
    assert f"is on {kind}" in found.why


def test_a_directory_that_cannot_be_used_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    found = taken(tmp_path / "file")

    assert found.name is None
    assert "cannot be used" in found.why


def test_an_id_that_somebody_has_damaged_still_makes_a_name(tmp_path: Path) -> None:
    (tmp_path / "member").mkdir()
    (tmp_path / "member" / "id").write_bytes(b"\xff\x00 \n" * 100)

    found = taken(tmp_path)

    assert found.name is not None
    assert len(found.name) < 100
    found.leave()

"""Assets for rendered worlds: archives are checked, and their catalogue is read."""

from __future__ import annotations

import io
import tarfile

import fetch_assets
import pytest

CATALOGUE = """
# a comment
id=SweetHome3D#Made
name#1=Desk
category#1=Office
model#1=/made/desk/desk.obj
width#1=120
depth#1=60
height#1=75
creator#1=Somebody
name#2=Lamp
category#2=Lights
model#2=/made/lamp/lamp.obj
width#2=20
depth#2=20.5
height#2=40
elevation#2=150
dropOnTopElevation#2=-1
modelRotation#2=0 0 1 0 1 0 -1 0 0
creator#2=Somebody else
"""


def test_a_catalogue_gives_sizes_in_metres():
    desk, lamp = (
        fetch_assets.described(entry, "Made") for entry in fetch_assets.catalogue(CATALOGUE)
    )
    assert desk["file"] == "Made/made/desk/desk.obj"
    assert desk["size"] == [1.2, 0.6, 0.75] and desk["on_top"] == 0.75
    assert lamp["elevation"] == 1.5 and lamp["on_top"] == 0
    assert lamp["rotation"] == [0, 0, 1, 0, 1, 0, -1, 0, 0]


def test_a_debian_package_is_read(tmp_path):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as tar:
        member = tarfile.TarInfo("./usr/share/a.jpg")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
    data = inner.getvalue()
    parts = [("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz/", data)]
    package = b"!<arch>\n"
    for name, body in parts:
        package += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode()
        package += body + b"\n" * (len(body) % 2)
    (tmp_path / "a.deb").write_bytes(package)
    assert list(fetch_assets.debian_files(tmp_path / "a.deb")) == [("./usr/share/a.jpg", b"hello")]


def test_another_file_under_an_archives_name_is_refused(tmp_path):
    archive = fetch_assets.PMNDRS
    (tmp_path / archive.file).write_bytes(b"something else")
    with pytest.raises(SystemExit, match="not the pinned version"):
        fetch_assets.fetch(archive, tmp_path)


def test_without_its_client_an_archive_can_be_handed_over(tmp_path):
    archive = fetch_assets.Archive("a.tgz", "0" * 64, ("no-such-client-7",), "https://page.example")
    with pytest.raises(SystemExit, match=r"Download a\.tgz from https://page\.example"):
        fetch_assets.fetch(archive, tmp_path)

"""Assets for rendered worlds: archives are checked, and their catalogue is read."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile

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


@pytest.mark.parametrize("member", ["../up/away.jpg", "/etc/away.jpg"])
def test_a_file_outside_the_folder_is_refused(tmp_path, monkeypatch, member):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", CATALOGUE)
        archive.writestr(member, b"x" * 5000)
    monkeypatch.setattr(
        fetch_assets, "debian_files", lambda _: [("usr/Made.sh3f", packed.getvalue())]
    )
    with pytest.raises(SystemExit, match="outside"):
        fetch_assets.models(tmp_path / "a.deb", tmp_path / "out")


def test_models_and_their_textures_are_unpacked(tmp_path, monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", CATALOGUE)
        archive.writestr("made/desk.png", b"an icon" * 1000)
        archive.writestr("made/desk/desk.obj", b"v 0 0 0")
        archive.writestr("made/desk/wood.jpg", b"x" * 5000)
        archive.writestr("made/desk/dot.jpg", b"x")
    files = [("usr/readme", b""), ("usr/Made.sh3f", packed.getvalue())]
    monkeypatch.setattr(fetch_assets, "debian_files", lambda _: files)
    found, textures = fetch_assets.models(tmp_path / "a.deb", tmp_path)
    assert [model["name"] for model in found] == ["Desk", "Lamp"] and textures == 1
    assert (tmp_path / "models" / found[0]["file"]).read_bytes() == b"v 0 0 0"
    assert json.loads((tmp_path / "models" / "models.json").read_text()) == found
    assert [f.name for f in (tmp_path / "textures").iterdir()] == ["Made-desk-wood.jpg"]
    words = fetch_assets.credits_of(found)
    assert "Somebody, Somebody else." in words and "Poly Haven" in words and "Scopia" in words

"""An archive of recordings, a folder or a zip file: which records it holds, each by its path.

Archives are read in place. Nothing is ever unpacked, so no member of a hostile archive can be written anywhere.
"""

from __future__ import annotations

import codecs
import os
import posixpath
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from ecgnb.errors import EcgnbError

LARGEST = 64 * 2**20  # bytes that a file may have: a day of one lead at 300 Hz has 52 MB


def decode(content: bytes, where: str) -> str:
    """Text from a file: UTF-8, or UTF-16 with a byte-order mark."""
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if not text.translate({9: None, 10: None, 13: None}).isprintable():  # tab and ends of lines
        raise EcgnbError(f"{where} is not plain text in UTF-8 or UTF-16; save it as UTF-8")
    return text


class Archive:
    """Read-only view of a zip file or folder: path in it -> bytes.

    Hidden files and what macOS adds (`._*`, `__MACOSX`) do not count; `.MAT` and `.HEA` are taken as `.mat` and
    `.hea`. What it holds is listed only when it is asked for: 17,000 entries take longer than mapping the cached
    arrays.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_dir() and not zipfile.is_zipfile(path):
            raise EcgnbError(f"{path}: not a readable zip file; delete it and run again")

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except Exception as error:  # zipfile raises many kinds for damaged bytes
            raise EcgnbError(
                f"{self.path}: not a readable zip file ({str(error)[:80]!r}); delete it and run again"
            ) from error

    def _files(self) -> Iterator[tuple[str, Path | zipfile.ZipInfo]]:
        """(path in the archive, where it lies) of every file."""
        if self.path.is_dir():
            for folder, _, names in os.walk(self.path, onerror=self._unreadable):
                inside = Path(folder).relative_to(self.path).as_posix()
                yield from ((posixpath.join(inside, name), Path(folder, name)) for name in names)
        else:
            yield from ((info.filename, info) for info in self._zip.infolist() if not info.is_dir())

    def _unreadable(self, error: OSError) -> None:
        raise EcgnbError(f"{self.path}: a folder in it cannot be read ({error}); mend its permissions") from error

    @cached_property
    def _members(self) -> dict[str, Path | zipfile.ZipInfo]:
        """Path in the archive -> where that file lies."""
        found: dict[str, Path | zipfile.ZipInfo] = {}
        for written, place in self._files():
            path = posixpath.normpath(written.replace("\\", "/"))
            if path.startswith(("/", "../")) or not path.isprintable():
                what = "a path outside it" if path.isprintable() else "a name that cannot be printed"
                raise EcgnbError(f"{self.path}: holds {written[:80]!r}, {what}; remove or rename that file")
            if path.startswith((".", "__MACOSX/")) or "/." in path:
                continue
            stem, ending = path[:-4], path[-4:].lower()
            path = stem + ending if ending in (".mat", ".hea") else path
            if path in found:
                raise EcgnbError(f"{self.path}: holds two files {path} (the second: {written}); keep one")
            found[path] = place
        return found

    def __contains__(self, path: str) -> bool:
        return path in self._members

    def only(self, name: str) -> str | None:
        """Path of the file called `name`, in whichever folder of the archive; None if there is none.

        Raises EcgnbError if there are several.
        """
        paths = [path for path in self._members if path == name or path.endswith(f"/{name}")]
        if len(paths) > 1:
            raise EcgnbError(f"{self.path}: holds {paths[0]} and {paths[1]}; keep one")
        return paths[0] if paths else None

    def read(self, path: str) -> bytes:
        """Bytes of the file at `path`."""
        where = f"{self.path}: {path}"
        if path not in self:
            raise EcgnbError(f"{where} is not there; is the download or the copy complete?")
        place = self._members[path]
        try:
            size = place.stat().st_size if isinstance(place, Path) else place.file_size
            if size > LARGEST:
                raise EcgnbError(f"{where} has {size} bytes, more than any recording; remove it")
            if isinstance(place, Path):
                if not place.is_file():
                    raise EcgnbError(f"{where} is not a file; remove it")
                return place.read_bytes()
            if place.flag_bits & 1:
                raise EcgnbError(f"{where} is encrypted; pack the zip again without a password")
            if place.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise EcgnbError(f"{where} is compressed in a way not known here; pack the zip again with deflate")
            with self._zip.open(place) as file:
                content = file.read(size)  # never more than is declared; the check sum is tested at the end
            if len(content) != size:
                raise EOFError(f"{len(content)} of {size} bytes")
            return content
        except EcgnbError:
            raise
        except Exception as error:  # zipfile and zlib raise many kinds for damaged bytes
            raise EcgnbError(f"{where} cannot be read ({str(error)[:80]!r}); fetch or copy it again") from error

    def text(self, path: str) -> str:
        """The text of the file at `path`."""
        return decode(self.read(path), f"{self.path}: {path}")

    @cached_property
    def records(self) -> dict[str, str]:
        """Record name -> path of its files, without ending: in the order of RECORDS, or by name without one.

        Lines of RECORDS are paths from the folder it lies in. Sub-folders may have their own.
        Raises EcgnbError if two recordings have one name, if RECORDS names one twice, or leaves one out.
        """
        lists = [path for path in self._members if path == "RECORDS" or path.endswith("/RECORDS")]
        mats = sorted((path[:-4] for path in self._members if path.endswith(".mat")), key=posixpath.basename)
        stems = dict.fromkeys(stem for path in lists for stem in self._listed(path)) if lists else mats
        found: dict[str, str] = {}
        for stem in stems:
            name = posixpath.basename(stem)
            if name in found:
                raise EcgnbError(
                    f"{self.path}: {found[name]}.mat and {stem}.mat have the same name; keep one or rename it"
                )
            found[name] = stem
        left_out = [stem for stem in mats if stem not in stems and f"{stem}.hea" in self]
        if left_out:
            name = posixpath.basename(left_out[0])
            other = f", but {found[name]}.mat" if name in found else ""
            raise EcgnbError(
                f"{self.path}: {lists[0]} does not name {left_out[0]}.mat{other} ({len(left_out)} such); "
                "name it there or move it away"
            )
        if not found:
            raise EcgnbError(f"{self.path}: holds neither RECORDS nor a single .mat file")
        return found

    def _listed(self, path: str) -> list[str]:
        """Paths, without ending, that a RECORDS file names."""
        lines: dict[str, int] = {}
        for number, line in enumerate(self.text(path).splitlines(), start=1):
            stem = posixpath.normpath(posixpath.join(posixpath.dirname(path), line.strip()))
            if not line.strip():
                continue
            if stem in lines:
                raise EcgnbError(
                    f"{self.path}: {path} names {line.strip()} in lines {lines[stem]} and {number}; remove one"
                )
            lines[stem] = number
        return list(lines)

"""The file system of a folder, as Linux lists it: network file systems are shared by several machines."""

from __future__ import annotations

import re
from pathlib import Path

SHARED = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs"})
SHARED |= {"panfs", "wekafs", "daos", "orangefs", "pvfs2", "gfs2", "ocfs2", "9p", "virtiofs", "vboxsf", "prl_fs"}
"""Types of file systems on which memory is not shared between all processes that open a file."""

LOCAL_FUSE = ("fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.ntfs-3g")
"""File systems in user space that are those of one machine, as most are not: sshfs, juicefs, mounted buckets."""

MOUNTS = Path("/proc/self/mountinfo")


def type_of(folder: Path, mounts: Path = MOUNTS) -> str:
    """Return the type of the file system on which a folder lies or would lie; "" where the system does not tell."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    place, found = folder.resolve(), {}
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if rest and len(fields.split()) > 4:
            found[Path(_unescaped(fields.split()[4]))] = rest.split()[0]  # a later mount hides an earlier one
    return next((found[each] for each in (place, *place.parents) if each in found), "")


def is_shared(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Tell whether a folder lies on a file system that several machines may share."""
    kind = type_of(folder, mounts)
    return kind in SHARED or (kind.startswith("fuse.") and kind not in LOCAL_FUSE)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)

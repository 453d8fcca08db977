"""The file system of buckets on the hub, with few requests, since the hub counts them."""

import os
from collections.abc import Sequence
from datetime import datetime

from fsspec.callbacks import Callback
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.utils import disable_progress_bars

# Of the transfers of contents. By default a silent storage is waited for nine minutes or more.
LIMITS = {"HF_XET_CLIENT_READ_TIMEOUT": "60s", "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2"}


class HubFiles(HfFileSystem):
    """Differs from its base in what it does for a file: it asks for it without a list of its
    folder, uploads several together, without copies of them, and downloads it as a whole.
    """

    def __init__(self, **options):
        super().__init__(**options)
        disable_progress_bars()  # those of huggingface_hub
        os.environ |= LIMITS | os.environ

    def size(self, path: str) -> int | None:
        """The size of a file now. None if it is missing."""
        place = self.resolve_path(path)
        found = HfApi().get_bucket_paths_info(place.bucket_id, [place.path])
        return next((file.size for file in found), None)

    def exists(self, path: str, **_) -> bool:
        """Whether a file is there now."""
        return self.size(path) is not None

    def modified(self, path: str, **_) -> datetime:
        """When a file was uploaded. Its base says when it was written, on another machine."""
        return self.info(path)["uploaded_at"]

    def put(self, lpath: Sequence[str], rpath: Sequence[str], **_) -> None:
        """Upload files to a bucket."""
        places = [self.resolve_path(path) for path in rpath]
        add = [(file, place.path) for file, place in zip(lpath, places, strict=True)]
        HfApi().batch_bucket_files(places[0].bucket_id, add=add)

    def put_file(self, lpath: str, rpath: str, **_) -> None:
        """Upload a file."""
        self.put([lpath], [rpath])

    def get_file(self, rpath: str, lpath: str, callback: Callback) -> None:
        """Download a file. Its base would fetch it block by block in order to call the callback."""
        callback.set_size(self.info(rpath)["size"])
        super().get_file(rpath, lpath)

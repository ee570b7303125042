"""Models from the Hugging Face hub, and errors when they cannot be fetched."""

import re
from collections.abc import Sequence
from pathlib import Path

from csd_core.errors import UserError

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_WAY_OUT = 'the editor that ships with this package, "mini", needs no download'


def fetch_from_hub(
    repo_id: str,
    patterns: Sequence[str],
    *,
    revision: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The files of a repository that match patterns, in the hub's cache; returns the folder.

    Raises:
        UserError: no such folder or repository, or it is out of reach.
    """
    if not _HUB_ID.fullmatch(repo_id):
        raise UserError(f"model {repo_id!r}: no such folder, nor a hub id such as owner/name; {_WAY_OUT}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=list(patterns),
            )
        )
    except GatedRepoError:
        problem = "it asks for a login and consent on the hub"
    except RepositoryNotFoundError:
        problem = "neither a folder here nor a public model on the hub"
    except RevisionNotFoundError:
        problem = f"it has no revision {revision!r}"
    except Exception as error:  # no network, proxy, time-out, full disk: each has its own type
        reach = "" if local_files_only else ", and the hub is out of reach"
        problem = f"not in the local cache{reach} ({type(error).__name__})"
    raise UserError(f"model {repo_id!r}: {problem}; check the name and the network; {_WAY_OUT}")

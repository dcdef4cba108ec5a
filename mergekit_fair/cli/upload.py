"""One commit to the Hub; whatever it answers, a sentence says what went wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from mergekit_fair.errors import CheckpointError, ConfigError, first_line

if TYPE_CHECKING:
    from mergekit_fair.report.publishing import Upload

CARD = "README.md"

_LOG_IN = "run `hf auth login`, or set HF_TOKEN to a token that may write"
# huggingface_hub lets errors of its HTTP library through, which differs between its versions.
_HTTP = ("httpx", "requests")


def require_name(repo: str) -> None:
    """Check that it is NAMESPACE/NAME.

    Raises:
        ConfigError: it is not.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII):
        raise _no_name(repo)


def send(upload: Upload, repo: str, *, private: bool, revision: str | None) -> str:
    """One commit of everything; the repository is made if it is not there.

    Returns:
        Its address.

    Raises:
        CheckpointError: a file that was changed after it was checked.
        ConfigError: nobody is logged in, or may not write there.
        click.ClickException: the Hub cannot be reached, refuses, or answers what makes no sense.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    _require_token()
    files = {**upload.files, CARD: upload.card.encode()}
    operations = [
        CommitOperationAdd(path, file if isinstance(file, bytes) else str(file))
        for path, file in sorted(files.items())
    ]
    for operation in operations:
        known = upload.digests.get(operation.path_in_repo)
        if known is not None and operation.upload_info.sha256.hex() != known:
            raise CheckpointError(
                "was changed after it was checked",
                where=operation.path_or_fileobj,
                fix="run the command again when nothing writes to it",
            )
    api = HfApi()
    try:
        address = api.create_repo(repo, private=private or None, exist_ok=True)
        if revision:
            api.create_branch(repo, branch=revision, exist_ok=True)
        api.create_commit(
            repo,
            operations,
            commit_message="Merged model with fairness card (mergekit-fair)",
            revision=revision,
        )
    except HFValidationError as error:
        raise _no_name(repo, f" ({first_line(error)})") from error
    except LocalTokenNotFoundError as error:
        raise ConfigError("nobody is logged in", where=repo, fix=_LOG_IN) from error
    except OfflineModeIsEnabled as error:
        raise ConfigError(
            "HF_HUB_OFFLINE is set", where=repo, fix="unset it to upload, or use --dry-run"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise ConfigError(
                f"the Hub does not let you write there ({status})", where=repo, fix=_LOG_IN
            ) from error
        raise click.ClickException(f"{repo}: the Hub refused: {first_line(error)}") from error
    except Exception as error:
        is_http = type(error).__module__.startswith(_HTTP)
        if isinstance(error, (OSError, MemoryError)) and not is_http:
            raise  # of a file here
        # An answer that is no JSON, or lacks what it should have, is an error of any type.
        what = "cannot be reached" if is_http else "does not answer as the Hub does"
        raise click.ClickException(
            f"{repo}: {api.endpoint} {what}: {type(error).__name__}: {first_line(error)}"
        ) from error
    return str(address)


def _require_token() -> None:
    """A token that no header can hold would be printed by whoever tries."""
    from huggingface_hub import get_token

    token = get_token()
    if token and not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(
            "is not a token: it has blanks, or letters that no token has",
            where="HF_TOKEN, or what `hf auth login` has stored",
            fix=_LOG_IN,
        )


def _no_name(repo: str, why: str = "") -> ConfigError:
    return ConfigError(
        f"is not the name of a repository{why}", where="REPO", got=repo, allowed="NAMESPACE/NAME"
    )

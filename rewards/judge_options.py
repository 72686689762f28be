"""The command-line options of the judge, shared by the benchmarks that have judged numbers."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from scenerl.configs.schema import ConfigError
from scenerl.preprocess.records import DataError
from scenerl.rewards.benchmark import Option, Options
from scenerl.rewards.judge import (
    JudgeRecord,
    ResourceError,
    Verdict,
    judge_all,
    kept,
    read_prompt,
    recorded,
)
from scenerl.rewards.judge_endpoint import EndpointJudge

JUDGE_OPTIONS: Final = (
    Option(
        flag="--judge",
        help="who judges: a file of recorded verdicts, the address of an OpenAI-compatible "
        "endpoint such as http://localhost:8000/v1, or a checkpoint folder, which vLLM "
        "serves for as long as it is asked; without it the judged rows are absent",
    ),
    Option(
        flag="--judge-model", help="the endpoint's name of the model; of a checkpoint, its path"
    ),
    Option(flag="--judge-verdicts", help="file that keeps every verdict, and where a run goes on"),
    Option(flag="--judge-prompt", help="JSON list of messages, such as the official prompt file"),
    Option(flag="--judge-key", help="environment variable that holds the API key"),
    Option(flag="--judge-concurrency", default="8", help="questions open at a time"),
    Option(flag="--judge-timeout", default="60", help="seconds"),
    Option(flag="--judge-retries", default="5", help="tries after the first, ever further apart"),
    Option(flag="--judge-temperature", default="0", help='"none" leaves it to the endpoint'),
)

_NO_MEDIA: Final = '{"image": 0, "video": 0}'


def check_judge(options: Options) -> None:
    """Check the judge's options before any file is read.

    Raises:
        ConfigError: If they do not fit together.
        DataError: If the file of verdicts is not there.
    """
    if options.get("judge"):
        _endpoint(options)


def judge_by_options(records: Sequence[JudgeRecord], options: Options) -> dict[str, Verdict] | None:
    """Return the verdicts on the records, None when no judge was asked for.

    Raises:
        ConfigError: If the options do not fit together.
        DataError: If recorded verdicts do not fit the records.
        ResourceError: If the endpoint does not reply, or vLLM does not start.
    """
    if not options.get("judge"):
        return None
    judge = _endpoint(options)
    if judge is None:
        return recorded(records, Path(options["judge"]))
    given = options.get("judge_prompt")
    prompt, path = read_prompt(Path(given) if given else None), Path(options["judge_verdicts"])
    with contextlib.ExitStack() as stack:
        folder = Path(options["judge"])
        if folder.is_dir() and len(kept(records, judge.model, prompt, path)) < len(records):
            judge = stack.enter_context(_served(folder, judge))
        concurrency = int(_number(options, "judge_concurrency", least=1))
        return judge_all(records, judge, prompt, path, concurrency=concurrency)


@contextlib.contextmanager
def _served(folder: Path, judge: EndpointJudge) -> Iterator[EndpointJudge]:
    """Give the judge the address of a server on the folder that lives as long as the context."""
    from scenerl.rollout.engine import EngineError
    from scenerl.rollout.vllm_server import serve

    with contextlib.ExitStack() as stack:
        try:
            # The judge reads text alone, and no longer than the memory has room for.
            arguments = ("--max-model-len", "auto", "--limit-mm-per-prompt", _NO_MEDIA)
            server = stack.enter_context(serve(folder, model=judge.model, arguments=arguments))
        except EngineError as error:
            raise ResourceError(f"--judge: {error}") from None
        yield replace(judge, url=server.url, key_variable=server.key_variable)


def _endpoint(options: Options) -> EndpointJudge | None:
    """Return the endpoint, without its address for a checkpoint, or None for a file."""
    where = options["judge"]
    is_local = Path(where).is_dir()
    if is_local:
        if not (Path(where) / "config.json").is_file():
            raise DataError(
                f"--judge {where}: the folder has no config.json; expected a checkpoint folder"
            )
        if options.get("judge_key"):
            raise ConfigError("--judge-key goes with an address; a checkpoint needs none")
    elif "://" not in where:
        if not Path(where).is_file():
            raise DataError(
                f"--judge {where}: no such file; expected recorded verdicts, a checkpoint folder, "
                "or an address that starts with http:// or https://"
            )
        return None
    for name in ("judge_verdicts",) if is_local else ("judge_model", "judge_verdicts"):
        if not options.get(name):
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"--judge {where} also needs {flag}; see docs/judge.md")
    temperature = options.get("judge_temperature", "0")
    return EndpointJudge(
        url="http://127.0.0.1" if is_local else where,
        model=options.get("judge_model") or str(Path(where).resolve()),
        key_variable=options.get("judge_key"),
        timeout_s=_number(options, "judge_timeout", least=0.01),
        retries=int(_number(options, "judge_retries", least=0)),
        temperature=None
        if temperature == "none"
        else _number(options, "judge_temperature", least=0),
    )


def _number(options: Options, name: str, *, least: float) -> float:
    try:
        value = float(options[name])
    except ValueError:
        value = float("nan")
    if not least <= value < float("inf"):
        flag = "--" + name.replace("_", "-")
        raise ConfigError(f"{flag} is {options[name]!r}; expected a number of at least {least:g}")
    return value

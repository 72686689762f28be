"""The command-line options of the judge, shared by the benchmarks that have judged numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from scenerl.configs.schema import ConfigError
from scenerl.preprocess.records import DataError
from scenerl.rewards.benchmark import Option, Options
from scenerl.rewards.judge import JudgeRecord, Verdict, judge_all, read_prompt, recorded
from scenerl.rewards.judge_endpoint import EndpointJudge

JUDGE_OPTIONS: Final = (
    Option(
        flag="--judge",
        help="who judges: a file of recorded verdicts, or the address of an OpenAI-compatible "
        "endpoint such as http://localhost:8000/v1; without it the judged rows are absent",
    ),
    Option(flag="--judge-model", help="the endpoint's name of the model"),
    Option(flag="--judge-verdicts", help="file that keeps every verdict, and where a run goes on"),
    Option(flag="--judge-prompt", help="JSON list of messages, such as the official prompt file"),
    Option(flag="--judge-key", help="environment variable that holds the API key"),
    Option(flag="--judge-concurrency", default="8", help="questions open at a time"),
    Option(flag="--judge-timeout", default="60", help="seconds"),
    Option(flag="--judge-retries", default="5", help="tries after the first, ever further apart"),
    Option(flag="--judge-temperature", default="0", help='"none" leaves it to the endpoint'),
)


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
        ResourceError: If the endpoint does not reply.
    """
    if not options.get("judge"):
        return None
    judge = _endpoint(options)
    if judge is None:
        return recorded(records, Path(options["judge"]))
    prompt = options.get("judge_prompt")
    return judge_all(
        records,
        judge,
        read_prompt(Path(prompt) if prompt else None),
        Path(options["judge_verdicts"]),
        concurrency=int(_number(options, "judge_concurrency", least=1)),
    )


def _endpoint(options: Options) -> EndpointJudge | None:
    """Return the endpoint, or None when the judge is a file."""
    where = options["judge"]
    if "://" not in where:
        if not Path(where).is_file():
            raise DataError(
                f"--judge {where}: no such file; expected recorded verdicts, or an address that "
                "starts with http:// or https://"
            )
        return None
    for name in ("judge_model", "judge_verdicts"):
        if not options.get(name):
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"--judge {where} also needs {flag}; see docs/judge.md")
    temperature = options.get("judge_temperature", "0")
    return EndpointJudge(
        url=where,
        model=options["judge_model"],
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

"""Read a run's settings: YAML with `extends`, dotted overrides, every unknown key refused."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from scenerl.configs.schema import ConfigError, RunConfig

RECIPES = Path(__file__).parent
"""Folder of the recipes that ship with scenerl; `--config stage1_tiny` finds them by name."""

MAX_BYTES = 1 << 20

TRL_NAMES: dict[str, str] = {
    "num_generations": "rollout.group_size",
    "max_prompt_length": "rollout.max_prompt_length",
    "max_completion_length": "rollout.max_completion_length",
    "temperature": "rollout.temperature",
    "top_p": "rollout.top_p",
    "top_k": "rollout.top_k",
    "vllm_gpu_memory_utilization": "rollout.gpu_memory_utilization",
    "vllm_tensor_parallel_size": "rollout.tensor_parallel_size",
    "vllm_importance_sampling_cap": "train.importance_sampling_cap",
    "model_name_or_path": "model.path",
    "dtype": "model.dtype",
    "output_dir": "output_dir",
    "run_name": "name",
    "seed": "seed",
    "report_to": "log.trackers",
    "lora_r": "model.lora_r",
    "lora_alpha": "model.lora_alpha",
    "lora_dropout": "model.lora_dropout",
    "lora_target_modules": "model.lora_target_modules",
}
"""TRL's flat spelling -> where the setting lives here; fields of `train` keep their names."""


def load_config(path: str | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Build the settings of a run from a YAML file and `key=value` overrides.

    Args:
        path: YAML file, or the name of a shipped recipe without its ending; None takes the
            defaults.
        overrides: Dotted assignments such as ``rollout.group_size=16``; the value is YAML.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If a file is missing, a key is unknown or a value has the wrong type; the
            message names the origin, the key and the nearest known key.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if path is not None:
        for file, layer in _layers(find_config(path)):
            _merge(values, _expand(layer, str(file)), origins, str(file))
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"override {text!r} has no '='; write it as section.setting=value")
        layer = _expand({key.strip(): _parse_yaml(value, f"override {text!r}")}, "command line")
        _merge(values, layer, origins, "command line")
    built = _build(RunConfig, values, "", origins)
    assert isinstance(built, RunConfig)
    return built


def to_yaml(config: RunConfig) -> str:
    """Write every setting, defaults included, as YAML that `load_config` reads back equal."""
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Return the settings as nested plain dicts and lists."""
    plain = _plain(config)
    assert isinstance(plain, dict)
    return plain


def find_config(path: str) -> Path:
    """Return the file that `--config` names: a path, or a recipe that ships with scenerl."""
    file = Path(path)
    if file.is_file():
        return file
    recipe = RECIPES / f"{file.name.removesuffix('.yaml')}.yaml"
    if file.parent in (Path(), Path("configs")) and recipe.is_file():
        return recipe
    names = sorted(item.stem for item in RECIPES.glob("*.yaml"))
    raise ConfigError(
        f"no configuration {path!r}: neither a file nor a shipped recipe; recipes are "
        + ", ".join(names)
    )


def _layers(file: Path, seen: tuple[Path, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    if file.resolve() in seen:
        chain = " -> ".join(item.name for item in (*seen, file))
        raise ConfigError(f"{file}: extends goes in a circle: {chain}")
    if file.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{file}: larger than {MAX_BYTES} bytes, which no configuration is")
    layer = _parse_yaml(file.read_text(encoding="utf-8"), str(file)) or {}
    if not isinstance(layer, dict):
        raise ConfigError(f"{file}: found {type(layer).__name__}, expected settings as key: value")
    parent = layer.pop("extends", None)
    if parent is None:
        return [(file, layer)]
    base = file.parent / str(parent)
    if not base.is_file():
        base = find_config(str(parent))
    return [*_layers(base, (*seen, file.resolve())), (file, layer)]


class _Loader(yaml.SafeLoader):
    """Safe loading without aliases, which can blow a small file up to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key!r} is set twice")
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from error


def _expand(layer: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Turn dotted keys and TRL's flat names into nested dicts."""
    train_fields = {item.name for item in dataclasses.fields(_section("train"))}
    result: dict[str, Any] = {}
    for key, value in layer.items():
        name = str(key)
        section, _, rest = name.partition(".")
        if name in TRL_NAMES:
            name = TRL_NAMES[name]
        elif section == "train" and rest in TRL_NAMES:
            name = TRL_NAMES[rest]
        elif name in train_fields and not _is_section(name):
            name = f"train.{name}"
        target = result
        *parents, last = name.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
        if isinstance(value, dict) and isinstance(target.get(last), dict):
            target[last].update(value)
        elif name == "train" and isinstance(value, dict):
            for inner, item in value.items():
                moved = TRL_NAMES.get(str(inner))
                node = _expand({moved: item}, origin) if moved else {"train": {inner: item}}
                _merge(result, node, {}, origin)
        else:
            target[last] = value
    return result


def _section(name: str) -> type:
    hints = typing.get_type_hints(RunConfig)
    section = hints[name]
    assert isinstance(section, type)
    return section


def _is_section(name: str) -> bool:
    return name in {item.name for item in dataclasses.fields(RunConfig)}


def _merge(
    base: dict[str, Any],
    layer: Mapping[str, Any],
    origins: dict[str, str],
    origin: str,
    prefix: str = "",
) -> None:
    for key, value in layer.items():
        dotted = f"{prefix}{key}"
        origins[dotted] = origin
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value, origins, origin, f"{dotted}.")
        else:
            base[key] = value
            if isinstance(value, dict):
                _merge({}, value, origins, origin, f"{dotted}.")


def _build(cls: type, values: Any, prefix: str, origins: Mapping[str, str]) -> Any:
    """Build one dataclass from a dict, with a named error for every wrong key or value."""
    where = _origin(prefix.rstrip("."), origins)
    if not isinstance(values, dict):
        raise ConfigError(
            f"{where}: {prefix.rstrip('.') or 'the file'}: found {values!r}, expected settings"
        )
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise ConfigError(_unknown(str(key), prefix, list(hints), origins))
    arguments = {
        key: _convert(hints[key], value, f"{prefix}{key}", origins) for key, value in values.items()
    }
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _unknown(key: str, prefix: str, known: list[str], origins: Mapping[str, str]) -> str:
    origin = _origin(f"{prefix}{key}", origins)
    elsewhere = [name for name in _all_keys() if name.split(".")[-1] == key]
    near = [f"{prefix}{name}" for name in difflib.get_close_matches(key, known, n=1)]
    far = difflib.get_close_matches(key, _all_keys(), n=1)
    suggestions = elsewhere or near or far
    if suggestions:
        return f"{origin}: {prefix}{key}: unknown setting; did you mean {suggestions[0]}?"
    return (
        f"{origin}: {prefix}{key}: unknown setting; settings of "
        f"{prefix.rstrip('.') or 'a run'} are {', '.join(known)}"
    )


def _origin(key: str, origins: Mapping[str, str]) -> str:
    """Return the file or place that set a key, or its nearest parent."""
    while key and key not in origins:
        key = key.rpartition(".")[0]
    return origins.get(key, "settings")


def _all_keys() -> list[str]:
    keys = []
    for name, hint in typing.get_type_hints(RunConfig).items():
        if dataclasses.is_dataclass(hint):
            keys += [f"{name}.{item.name}" for item in dataclasses.fields(hint)]
        else:
            keys.append(name)
    return keys


def _convert(hint: Any, value: Any, key: str, origins: Mapping[str, str]) -> Any:
    """Check and convert one value to its declared type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, key, origins)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, f"{key}.", origins)
    if origin is Literal:
        if value in arguments and not (isinstance(value, bool) and True not in arguments):
            return value
        raise _wrong(key, value, "one of " + ", ".join(map(str, arguments)), origins)
    if origin is tuple:
        items = [value] if isinstance(value, str | int | float) else value
        if not isinstance(items, list):
            raise _wrong(key, value, "a list", origins)
        return tuple(_convert(arguments[0], v, f"{key}.{i}", origins) for i, v in enumerate(items))
    return _scalar(origin or hint, value, key, origins)


def _scalar(hint: Any, value: Any, key: str, origins: Mapping[str, str]) -> Any:
    if hint is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-6 as text
        except (TypeError, ValueError):
            raise _wrong(key, value, "a number", origins) from None
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    names = {int: "a whole number", bool: "true or false", str: "text", dict: "a mapping"}
    if hint in names and (not isinstance(value, hint) or (hint is int and value is True)):
        if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        raise _wrong(key, value, names[hint], origins)
    return value


def _wrong(key: str, value: Any, expected: str, origins: Mapping[str, str]) -> ConfigError:
    return ConfigError(f"{_origin(key, origins)}: {key}: found {value!r}, expected {expected}")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value

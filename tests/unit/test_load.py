from pathlib import Path

import pytest

from scenerl.configs.load import RECIPES, load_config, to_yaml
from scenerl.configs.schema import ConfigError, RunConfig


def test_every_recipe_loads_and_reads_back_equal(tmp_path: Path) -> None:
    recipes = sorted(RECIPES.glob("*.yaml"))
    assert len(recipes) >= 8
    for recipe in recipes:
        config = load_config(str(recipe))
        written = tmp_path / recipe.name
        written.write_text(to_yaml(config))
        assert load_config(str(written)) == config


def test_extends_merges_sections_and_the_command_line_wins(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("rollout: {group_size: 4, top_k: 7}\ntrain: {beta: 0.1}\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nrollout: {group_size: 6}\n")
    config = load_config(str(tmp_path / "b.yaml"), ["train.beta=0.2"])
    assert (config.rollout.group_size, config.rollout.top_k, config.train.beta) == (6, 7, 0.2)


def test_a_later_layer_replaces_a_list_whole(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("rewards: [{name: format}, {name: length}]\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nrewards: [{name: box_iou}]\n")
    assert [r.name for r in load_config(str(tmp_path / "b.yaml")).rewards] == ["box_iou"]


def test_flat_trl_names_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "trl.yaml"
    file.write_text(
        "num_generations: 16\nlearning_rate: 1e-6\nloss_type: dr_grpo\nbeta: 0.04\n"
        "max_completion_length: 256\nepsilon_high: 0.28\nscale_rewards: none\n"
    )
    config = load_config(str(file))
    assert config.rollout.group_size == 16
    assert config.rollout.max_completion_length == 256
    assert config.train.learning_rate == 1e-6
    assert (config.train.loss_type, config.train.beta) == ("dr_grpo", 0.04)
    assert (config.train.epsilon_high, config.train.scale_rewards) == (0.28, "none")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rollout.group_sise=16", ["rollout.group_sise", "did you mean rollout.group_size?"]),
        ("group_size=16", ["did you mean rollout.group_size?"]),
        ("rollout.group_size=1", ["at least 2", "rollout.group_size"]),
        ("rollout.group_size=many", ["found 'many'", "a whole number"]),
        ("train.loss_type=ppo", ["found 'ppo'", "one of grpo, dr_grpo"]),
        ("model.trust_remote_code=1", ["found 1", "true or false"]),
        ("train.beta=low", ["found 'low'", "a number"]),
        ("rewards=[{weight: 1}]", ["either name or path"]),
        ("rewards=[{name: format, weigth: 1}]", ["rewards.0.weigth", "did you mean"]),
        ("train.beta", ["has no '='"]),
        ("train.beta=[1", ["not valid YAML"]),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    for word in words:
        assert word in str(caught.value)


def test_the_file_with_the_wrong_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {lerning_rate: 1}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: train\.lerning_rate: unknown setting"):
        load_config(str(file))


def test_yaml_aliases_duplicates_and_circles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text("a: &x [1]\nb: *x\n")
    (tmp_path / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    (tmp_path / "me.yaml").write_text("extends: me.yaml\n")
    for name, words in (("bomb", "aliases"), ("twice", "set twice"), ("me", "circle")):
        with pytest.raises(ConfigError, match=words):
            load_config(str(tmp_path / f"{name}.yaml"))


def test_a_missing_file_lists_the_recipes() -> None:
    with pytest.raises(ConfigError, match="stage1_tiny"):
        load_config("stage_one.yaml")


def test_defaults_alone_make_a_run() -> None:
    assert load_config(None) == RunConfig()

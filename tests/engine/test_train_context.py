"""Rules of a recipe that cannot be applied are refused or said before training."""

import dataclasses

import numpy as np
import pytest

from chxbench import UserError
from chxbench.benchmark.engine.experiment import build_experiment
from chxbench.benchmark.engine.train_context import check_training, training_targets

STEP = {"train.optimizer": "sgd", "train.schedule": "step"}


@pytest.fixture
def check(small_config, capsys):
    """Check the training on small images whose labels are changed by split and finding; returns what was said."""

    def run(labels=(), split_sizes=None, **settings):
        experiment = build_experiment(
            small_config(method="bsl", settings={f"train.{k}": v for k, v in settings.items()})
        )
        images = experiment.index.images.copy()
        for split, finding, value in labels:
            images.loc[images["split"] == split, finding] = value
        for split, size in (split_sizes or {}).items():
            images = images.drop(images.index[images["split"] == split][size:])
        index = dataclasses.replace(experiment.index, images=images.reset_index(drop=True))
        capsys.readouterr()
        check_training(experiment.recipe, experiment.method, (), index, experiment.config.seed)
        return capsys.readouterr().err + capsys.readouterr().out

    return run


@pytest.fixture
def findings(small_config):
    return build_experiment(small_config(method="bsl")).index.findings


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_an_epoch_cannot_be_selected_by_an_auc_that_no_finding_has(check, findings, value):
    """It was published as the epoch with the highest mean AUC, and was the first."""
    labels = [("val", finding, value) for finding in findings]
    kind = {0.0: "no positives", 1.0: "no negatives"}.get(value, "no positives and no negatives")
    with pytest.raises(UserError, match=rf"validation split \({findings[0]} has {kind}.*--set train\.select=last"):
        check(labels, select="best_validation_auc")
    assert check(labels, select="last") == ""


def test_an_epoch_is_selected_by_the_findings_that_have_an_auc_and_it_is_said(check, findings):
    said = check([("val", findings[0], 0.0)], select="best_validation_auc")
    assert said.count("\n") == 1
    assert f"mean validation AUC of {len(findings) - 1} findings: {findings[0]} has no positives" in said


def test_permuted_labels_are_those_of_which_the_auc_is_computed(check, findings, small_config):
    config = small_config(method="bsl", settings={"train.shuffle_labels": True, "train.select": "best_validation_auc"})
    experiment = build_experiment(config)
    index, rows = experiment.index, experiment.index.rows("val")
    permuted = training_targets(experiment.recipe, index, 0)
    assert (permuted[rows] != index.targets()[rows]).any()
    np.testing.assert_array_equal(permuted[index.rows("test")], index.targets()[index.rows("test")])
    with pytest.raises(UserError, match="no finding has an AUC on the validation split"):
        check([("val", finding, 0.0) for finding in findings], select="best_validation_auc", shuffle_labels=True)


def test_a_test_split_without_any_auc_is_refused_before_training(check, findings):
    with pytest.raises(UserError, match="no finding has an AUC on the test split"):
        check([("test", finding, 0.0) for finding in findings])


def test_a_training_split_smaller_than_a_batch_is_said_and_one_of_a_single_image_refused(check):
    assert "the training split has 9 images: each step has these, not train.batch_size=16" in check(
        split_sizes={"train": 9}
    )
    with pytest.raises(UserError, match="training split has 1 image"):
        check(split_sizes={"train": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.momentum": 0.9}, "adamw has no momentum"),
        ({"train.drop_after": [1]}, "one_cycle has no drops"),
        ({"train.drop_factor": 0.5}, "the learning rate has no drops"),
        (
            {**STEP, "train.drop_after": [2], "train.drop_factor": 0.1},
            "ends after epoch 2, so that the learning rate never",
        ),
        ({**STEP, "train.drop_after": [1, 3], "train.drop_factor": 0.1}, "does not drop after epoch 3"),
        ({**STEP, "train.drop_after": [1]}, r"drop_factor is 1"),
        ({**STEP, "train.drop_factor": 0.1}, "has no drops"),
        ({"train.micro_batch": 16}, "a batch has 16 images"),
        ({"train.drop_after": [2, 1]}, "must be ascending"),
        ({"train.drop_after": [1, 1]}, "without repeated epochs"),
    ],
)
def test_settings_without_effect_are_refused(small_config, settings, message):
    with pytest.raises(UserError, match=message):
        build_experiment(small_config(method="bsl", settings=settings))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("sam", {"sharpness": 3}, "sharpness has no effect: only pool=lse has it, and pool is mean_probability"),
        ("ma", {"pool": "max", "sharpness": 10}, "sharpness has no effect: only pool=lse"),
        ("ma_random", {"hard": "worst_half", "threshold": 0.3}, "threshold has no effect: only hard=missed"),
        ("ma_again", {"budget": "plain", "hard": "worst_half"}, "hard has no effect: budget=plain repeats no image"),
        ("ma_again", {"budget": "plain", "count": "finding"}, "count has no effect"),
    ],
)
def test_options_without_effect_are_refused(small_config, method, options, message):
    with pytest.raises(UserError, match=message):
        build_experiment(small_config(method=method, options=options))


@pytest.mark.parametrize(
    ("method", "options"),
    [("sam", {"pool": "lse", "sharpness": 3}), ("ma", {"threshold": 0.3}), ("ma_again", {"count": "finding"})],
)
def test_options_with_an_effect_make_another_run(small_config, method, options):
    plain = build_experiment(small_config(method=method))
    assert build_experiment(small_config(method=method, options=options)).run_id != plain.run_id


@pytest.mark.parametrize(
    "settings",
    [{"train.momentum": 0}, {"train.drop_after": []}, {"train.micro_batch": 8}, {**STEP, "train.momentum": 0.9}],
)
def test_neutral_and_effective_settings_are_accepted_in_silence(small_config, settings, capsys):
    build_experiment(small_config(method="bsl", settings=settings))
    assert capsys.readouterr() == ("", "")


def test_what_a_recipe_sets_without_effect_is_said(small_config, capsys):
    settings = {"model.weights": "none", "evaluate.resamples": 100}
    build_experiment(small_config(method="bsl", recipe="paper", settings=settings))
    said = "".join(capsys.readouterr())
    assert "train.drop_after of recipe paper has no effect: training ends after epoch 2" in said
    assert "learning rate never drops" in said


def test_an_output_stride_that_no_option_follows_is_refused(small_config, tmp_path):
    path = tmp_path / "strideless.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom chxbench import METHODS, Method\n"
        "@METHODS.register('strideless')\n@dataclass(frozen=True)\nclass Strideless(Method):\n    title = 'S'\n"
    )
    asked = {"model.output_stride": 8}
    with pytest.raises(UserError, match=r"--set model\.output_stride .*strideless has no option output_stride"):
        build_experiment(small_config(method="strideless", plugins=[path], options={}, settings=asked))
    with pytest.raises(UserError, match="--option output_stride replaces it"):
        options = {"backbone": "test_resnet", "output_stride": 16}
        build_experiment(small_config(method="bsl", options=options, settings=asked))
    assert build_experiment(small_config(method="bsl", settings=asked)).method.output_stride == 8


NARROW = {"model.backbone": "resnet18", "model.width": 0.25}


@pytest.mark.parametrize(
    ("options", "settings", "backbone", "width"),
    [
        ({}, NARROW, "resnet18", 0.25),
        ({}, {"model.width": 0.5}, "resnet18d", 0.5),
        ({}, {}, "resnet18d", 0.25),  # of the recipe
        ({"backbone": "resnet101.tv_in1k"}, {}, "resnet101.tv_in1k", 1.0),
        ({"backbone": "resnet34"}, {}, "resnet34", 1.0),
        ({"width": 0.5}, {"model.backbone": "resnet18"}, "resnet18", 0.5),
    ],
)
def test_backbone_and_width_of_the_recipe_are_those_of_the_method(small_config, options, settings, backbone, width):
    method = build_experiment(small_config(method="sam", options=options, settings=settings)).method
    assert (method.backbone, method.width) == (backbone, width)


def test_recipe_paper_leaves_the_backbone_to_the_method(small_config):
    config = small_config(method="sam", recipe="paper", options={}, settings={"model.weights": "none"})
    method = build_experiment(config).method
    assert (method.backbone, method.width) == ("resnet101.tv_in1k", 1.0)


def test_a_recipe_s_backbone_is_replaced_with_its_width_and_missed_where_no_option_follows_it(
    small_config, tmp_path, capsys
):
    recipe = tmp_path / "narrow.toml"
    recipe.write_text('extends = "quick"\n[model]\nbackbone = "resnet18"\nwidth = 0.25\n')
    own = build_experiment(small_config(method="bsl", recipe=str(recipe), options={"backbone": "resnet34"})).method
    assert (own.backbone, own.width) == ("resnet34", 1.0)
    for option in ({"backbone": "resnet34"}, {"width": 0.5}):
        with pytest.raises(UserError, match=f"--set model.width has no effect: --option {next(iter(option))} replaces"):
            build_experiment(small_config(method="bsl", options=option, settings={"model.width": 0.25}))
    path = tmp_path / "fixed.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom chxbench import METHODS, Method\n"
        "@METHODS.register('fixed')\n@dataclass(frozen=True)\nclass Fixed(Method):\n    title = 'F'\n"
    )
    capsys.readouterr()
    build_experiment(small_config(method="fixed", recipe=str(recipe), plugins=[path], options={}))
    assert "model.backbone of recipe" in (said := "".join(capsys.readouterr()))
    assert "has no effect: method fixed has no option backbone" in said

"""Ranges, choices, and settings that contradict each other: the one line that each gets."""

import pytest

from src.config.load import load_config
from src.config.settings import FOLD_METHODS, settings
from src.errors import UserError

PRETRAINED = "model.pretrained=true"


def message_of(words):
    with pytest.raises(UserError) as caught:
        load_config(words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("optimizer.lr=nan", "optimizer.lr=nan: must be a finite number at least 0"),
        ("train.epochs=0", "train.epochs=0: must be at least 1"),
        ("train.epochs=9999999999999999", "train.epochs=9999999999999999: must be from 1 to 1000000000000000"),
        ("image_size=[224,4]", "image_size=4: must be from 8 to 32768"),
        ("model.drop_rate=1.5", "model.drop_rate=1.5: must be from 0 to 0.99"),
        ("fold=5", "fold=5: there are num_folds=5, counted from 0; fold=4 is the last"),
        ("infer.tta=hflop", f"infer.tta=hflop: not one of {', '.join(settings()['infer.tta'].metadata['choices'])}; "
         "did you mean hflip?"),
        ("normalize=datset", "normalize=datset: not one of backbone, dataset, center, none; did you mean dataset?"),
        ("normalize={mean: [0.5]}",
         "normalize={'mean': [0.5]}: must hold mean and std; for example 'normalize={mean: [0.5], std: [0.25]}'"),
        *((f"normalize={{mean: {mean}, std: {std}}}", f"normalize.{wrong}: must be a list of 1 numbers "
           f"(competition.channels) {where} 0 to 1; divide those of 0 to 255 by 255")
          for mean, std, wrong, where in [("[0.5, 0.5]", "[0.1]", "mean=[0.5, 0.5]", "from"),
                                          ("0.5", "[0.1]", "mean=0.5", "from"), ("[-1]", "[1]", "mean=[-1]", "from"),
                                          ("[0.5]", "[0]", "std=[0]", "above"),
                                          ("[0.5]", "[57]", "std=[57]", "above")]),
        ("competition.bits=17", "competition.bits=17: must be from 8 to 16"),
        ("resize=letterbx", "resize=letterbx: not one of squash, letterbox, crop; did you mean letterbox?"),
        ("folds=startified", f"folds=startified: not one of {', '.join(FOLD_METHODS)}, nor a .csv; did you mean "
         "stratified?"),
        ("folds=column", "folds=column: which column is not said; set competition.fold=COLUMN"),
        ("name=..", "name=..: not a folder of its own in outputs; choose another name"),
        ("name=../x", "name=../x: not a folder of its own in outputs; choose another name"),
        ("time_budget=8.5", "time_budget=8.5: no time above 0; write for example 8.5h, 45m or 90s"),
        ("time_budget=0h", "time_budget=0h: no time above 0; write for example 8.5h, 45m or 90s"),
        ("infer.time_budget=0s", "infer.time_budget=0s: no time above 0; write for example 8.5h, 45m or 90s"),
        ("infer.time_budget=abc", "infer.time_budget=abc: no time above 0; write for example 8.5h, 45m or 90s"),
        ("model.freeze=some", "model.freeze=some: not one of none, head_only, gradual, nor a number of stages"),
        ("train.select=mean", "train.select=mean: not one of last, best"),
        ("train.early_stopping_kwargs.om=loss",
         "train.early_stopping_kwargs: early stopping has no om (it has min_delta, on); leave it out, or empty what a "
         "file sets with train.early_stopping_kwargs={}"),
        ("train.early_stopping_kwargs.on=auc", "train.early_stopping_kwargs.on=auc: not one of score, loss"),
        ("model.batchnorm_kwargs.momentum=x",
         "model.batchnorm_kwargs.momentum=x: must be a finite number from 0 to 1"),
        ("model.batchnorm_kwargs.momentum=-5", "model.batchnorm_kwargs.momentum=-5: must be from 0 to 1"),
        ("model.batchnorm_kwargs.eps=.nan", "model.batchnorm_kwargs.eps=nan: must be a finite number from 1e-12 to 1"),
        ("model.batchnorm_kwargs.mom=1",
         "model.batchnorm_kwargs: BatchNorm has no mom (it has momentum, eps); leave it out, or empty what a file sets "
         "with model.batchnorm_kwargs={}"),
        ("train.early_stopping_kwargs.min_delta=-1", "train.early_stopping_kwargs.min_delta=-1: must be at least 0"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_own_line(word, expected):
    assert message_of([word]) == expected


def test_a_registry_may_be_left_for_a_file_or_a_number():
    assert load_config(["folds=my.csv", "fold=7"]).folds == "my.csv"
    assert load_config(["folds=a\nb.csv"]).folds == "a\nb.csv"
    assert load_config([PRETRAINED, "model.freeze=2"]).model.freeze == "2"
    assert load_config(["infer.tta=[hflip,vflip]"]).infer.tta == ["hflip", "vflip"]


CONTRADICTIONS = [
    (["infer.calibration=isotonic", "infer.average=rank"],
     "infer.calibration=isotonic: ranks are no probabilities; set infer.average=mean or infer.calibration=none"),
    (["infer.calibration=temperature_per_column"],
     "infer.calibration=temperature_per_column: the classes of a row have one temperature; "
     "set infer.calibration=temperature"),
    (["competition.task=regression", "competition.metric=rmse", "infer.calibration=temperature"],
     "infer.calibration=temperature: is of probabilities, and competition.task=regression has values; "
     "set infer.calibration=none"),
    ([PRETRAINED, "model.freeze=head_only", "optimizer.layer_decay=0.7"],
     "model.freeze=head_only: optimizer.layer_decay=0.7 needs two stages of the backbone that learn; set it to null"),
    ([PRETRAINED, "model.freeze=1", "optimizer.layer_decay=0.7"],
     "model.freeze=1: optimizer.layer_decay=0.7 needs two stages of the backbone that learn; set it to null"),
    ([PRETRAINED, "model.freeze=0", "model.head_first_epochs=1"],
     "model.freeze=0: no epoch follows model.head_first_epochs; set model.freeze=none"),
    ([PRETRAINED, "model.head_first_epochs=8"],
     "model.head_first_epochs=8: train.epochs=8 end before more opens; lower it"),
    ([PRETRAINED, "model.freeze=gradual", "model.gradual_epochs=9"],
     "model.gradual_epochs=9: train.epochs=8 end before more opens; lower it"),
    ([PRETRAINED, "model.freeze=head_only", "model.drop_path_rate=0.1"],
     "model.drop_path_rate: has no effect on a frozen backbone; set it to 0"),
    ([PRETRAINED, "model.norm=group"],
     "model.norm=group: pretrained weights come with their own; set model.pretrained=false"),
    ([PRETRAINED, "model.init=he_normal"],
     "model.init=he_normal: pretrained weights come with their own; set model.pretrained=false"),
    (["model.init=zero"], "model.init=zero: layers of zeros never learn; set model.init=he_normal"),
    (["model.freeze_batchnorm=true"],
     "model.freeze_batchnorm=true: random weights have no statistics to keep; set it to null"),
    ([PRETRAINED, "model.batchnorm_kwargs.momentum=0.2"],
     "model.batchnorm_kwargs.momentum=0.2: BatchNorm is frozen, its statistics do not move; "
     "set model.freeze_batchnorm=false"),
    (["competition.channels=3", "normalize={std: [0.5]}"],
     "normalize={'std': [0.5]}: must hold mean and std; for example "
     "'normalize={mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}'"),
    (["mix.prob=1", "mix.off_epochs=8"], "mix.off_epochs=8: nothing is mixed in train.epochs=8"),
    (["mix.prob=1", "mix.mixup_alpha=0", "mix.cutmix_alpha=0"],
     "mix.prob=1.0: nothing to mix with; set mix.mixup_alpha or mix.cutmix_alpha above 0"),
    (["schedule.name=plateau", "train.select=best", "train.early_stopping_kwargs.on=loss",
      "train.early_stopping_epochs=2"],
     "train.early_stopping_epochs=2: ends the training before a plateau of schedule.kwargs.patience_epochs=1 lowers "
     "the rate; set it to 3 or more"),
    (["schedule.name=plateau", "schedule.kwargs={on: score, patience_epochs: 4}", "train.select=best",
      "train.early_stopping_epochs=5"],
     "train.early_stopping_epochs=5: ends the training before a plateau of schedule.kwargs.patience_epochs=4 lowers "
     "the rate; set it to 6 or more"),
    (["augment.preset=none", "augment.flips=d4"],
     "augment.flips=d4: augment.preset=none leaves flips out; set augment.preset=light "
     "'augment.kwargs={rotate: 0, translate: 0, scale: [1, 1]}'"),
    (["train.views=3"], "train.views=3: counts features of a frozen backbone; set model.freeze=head_only"),
    ([PRETRAINED, "model.freeze=head_only", "mix.prob=0.5"],
     "mix.prob: makes new images in every epoch, whose features are not kept; set train.views=0"),
    ([PRETRAINED, "model.freeze=head_only", "augment.kwargs.augmix=3", "augment.augmix_consistency=12"],
     "augment.augmix_consistency: makes new images in every epoch, whose features are not kept; set train.views=0"),
    ([PRETRAINED, "model.freeze=head_only", "model.grad_checkpointing=true"],
     "model.grad_checkpointing: has no effect on a frozen backbone; set it to false"),
    ([PRETRAINED, "model.freeze=head_only", "model.head_first_epochs=1"],
     "model.freeze=head_only: no epoch follows model.head_first_epochs; set model.freeze=none"),
    ([PRETRAINED, "model.freeze=gradual", "model.head_first_epochs=2"],
     "model.freeze=gradual: begins with the head alone; set model.gradual_epochs=2 and model.head_first_epochs=0"),
    (["model.head_first_epochs=1"],
     "model.head_first_epochs=1: a head learns nothing on random weights; set model.pretrained=true"),
    (["model.freeze=2"], "model.freeze=2: random weights would never learn; set model.pretrained=true"),
    (["train.early_stopping_epochs=3"],
     "train.early_stopping_epochs=3: ends some epochs after the best one; set train.select=best"),
    (["train.average=soup"], "train.average=soup: picks its epochs by validation; set train.select=best"),
    (["train.average=swa", "train.early_stopping_epochs=2", "train.select=best"],
     "train.average=swa: averages the last epochs, which train.early_stopping_epochs may leave out; choose one"),
    (["loss.balance=true", "train.sampler=balanced"],
     "loss.balance: train.sampler=balanced makes rare labels up already; choose one of the two"),
    (["loss.balance=true", "loss.class_weights=[1,2]"],
     "loss.balance: takes the weights from the counts; leave out loss.class_weights or loss.balance"),
    (["loss.class_weights=[1,0]"], "loss.class_weights=[1.0, 0.0]: each must be above 0"),
    (["augment.augmix_consistency=12"],
     "augment.augmix_consistency: compares AugMix's views; set augment.kwargs.augmix=3"),
    (["augment.kwargs.augmix=3", "augment.augmix_consistency=12", "mix.prob=0.5"],
     "augment.augmix_consistency: its views cannot be mixed with other images; set mix.prob=0"),
    (["augment.transforms=[Transpose]", "augment.kwargs.rotate=10"],
     "augment.transforms: takes the place of augment.kwargs; give one of the two (augment.kwargs={})"),
    (["augment.transforms=[Transpose]", "augment.augmix_consistency=1"],
     "augment.transforms: takes the place of augment.augmix_consistency; give one of the two "
     "(augment.augmix_consistency=0)"),
    (["augment.place=device", "augment.transforms=[Transpose]"],
     "augment.place=device: augment.transforms stays in the loader, in its order; set augment.place=loader"),
    (["augment.place=device", "augment.kwargs.augmix=3", "augment.augmix_consistency=12"],
     "augment.place=device: augment.augmix_consistency stays in the loader, in its order; set augment.place=loader"),
    (["competition.predict_by=re:^.+_"],
     "competition.predict_by=re:^.+_: has no group in parentheses; write for example re:^(.+)_(left|right)$"),
    (["schedule.warmup_epochs=8"],
     "schedule.warmup_epochs=8: leaves nothing of train.epochs=8 for the curve"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), CONTRADICTIONS, ids=[" ".join(words) for words, _ in CONTRADICTIONS])
def test_settings_that_contradict_each_other(words, expected):
    assert message_of(words) == expected


ADVICE = [
    ["normalize={mean: [0.5], std: [0.25]}"],
    ["competition.channels=3", "normalize={mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}"],
    ["train.early_stopping_epochs=3", "train.select=best"],
    ["train.average=soup", "train.select=best"],
    ["schedule.name=plateau", "schedule.kwargs.on=score", "train.select=best", "train.early_stopping_epochs=3"],
    ["augment.preset=light", "augment.kwargs={rotate: 0, translate: 0, scale: [1, 1]}", "augment.flips=d4"],
    ["augment.transforms=[Transpose]", "augment.kwargs.rotate=10", "augment.kwargs={}"],
    ["augment.place=device", "augment.transforms=[Transpose]", "augment.place=loader"],
    [PRETRAINED, "model.freeze=head_only", "mix.prob=0.5", "train.views=0"],
    [PRETRAINED, "model.batchnorm_kwargs.momentum=0.2", "model.freeze_batchnorm=false"],
    [PRETRAINED, "model.batchnorm_kwargs.momentum=null"],
    ["schedule.name=onecycle", "schedule.warmup_epochs=1", "train.epochs=1"],
    ["train.average=swa", "train.select=last"],
]


@pytest.mark.parametrize("words", ADVICE, ids=" ".join)
def test_what_is_advised_is_taken(words):
    load_config(words)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("loss.label_smoothing=0.1", "loss.label_smoothing=0.1: spreads a target over classes"),
        ("loss.balance=true", "loss.balance=true: counts classes"),
        ("loss.class_weights=[2]", "loss.class_weights=[2.0]: weighs classes"),
        ("train.sampler=balanced", "train.sampler=balanced: draws classes alike"),
        ("infer.average=rank", "infer.average=rank: loses the targets' units"),
        ("model.head_kwargs.prior_bias=true", "model.head_kwargs.prior_bias=true: starts at class shares"),
        ("augment.augmix_consistency=12", "augment.augmix_consistency=12.0: compares probabilities"),
    ],
)
def test_what_counts_classes_is_refused_for_regression(word, expected):
    words = ["competition.task=regression", "augment.kwargs.augmix=3", word]
    found, _, advice = message_of(words).rpartition("; set ")
    assert found == f"{expected}, and competition.task=regression has values"
    load_config([*words, advice])

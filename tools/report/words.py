"""The words of a page that a newcomer may not know."""

import inspect

_OF_SECTIONS = {  # name of a section: words that it uses
    "folds": [
        ("fold", "one part of the training images: its network learns from the other parts and predicts this one"),
        ("out-of-fold", "each image predicted by a network that has not learned from it; the score to trust"),
    ],
    "curves": [
        ("epoch", "one pass over the images that a network learns from"),
        ("training, validation", "the images that a network learns from; those of its fold, which it never does"),
        ("loss", "how wrong predictions are, as training sees it: it moves the weights so that this falls"),
        ("gradient", "in which direction, and how strongly, the loss pulls the weights"),
    ],
    "ranking": [
        ("AUC", "area under the ROC curve: 1 is perfect, 0.5 is guessing"),
        ("AP", "average precision, the area under the other curve: 1 is perfect, the share of positives is guessing"),
        ("positive", "a row to which the column applies, such as an image of that class; all others are negative"),
    ],
    "errors": [("confidence", "the probability of what is predicted")],
    "augmentation": [
        ("augmentation", "small changes that training makes anew each time, so that no image is learned by heart"),
    ],
    "time": [("fp32, bf16, fp16", "computed with numbers of 32 or 16 bits; 16 are faster on some machines")],
}


def list_words(run, sections):
    """Return [(word, meaning)] for a run's page with these Sections: the metric's own sentence is the first."""
    function = run.metric.function  # a partial's docstring is that of `partial`
    meaning = " ".join(((inspect.isfunction(function) and inspect.getdoc(function)) or "").split("\n\n")[0].split())
    words = [(run.metric.name, meaning)] if meaning else []
    if run.scores.get("interval"):
        words.append(("95 %", "how far a score may be off by chance: what other images of the same kind would give"))
    if run.scores.get("leaderboard"):
        words.append(("public leaderboard", "the score of some test images that a host shows; the others decide"))
    names = {section.name for section in sections}
    words += [pair for name, pairs in _OF_SECTIONS.items() if name in names for pair in pairs]
    return [(word, meaning[0].upper() + meaning[1:].rstrip(".")) for word, meaning in words]

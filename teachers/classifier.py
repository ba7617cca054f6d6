"""A Hugging Face sequence classifier as a teacher."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from distill.labeling.errors import DataError
from distill.labeling.packaged_folder import packaged_folder
from distill.labeling.teacher import Prompt, Request
from distill.teachers.classifier_config import ClassifierTeacherConfig
from distill.teachers.local_model import LocalModelTeacher, folder_digest

_POSITIVE, _NEGATIVE = "positive", "negative"


class ClassifierTeacher(LocalModelTeacher):
    """A classifier that answers with its own distribution: softmax of its logits, or the sigmoid of a single one.

    A request is what the model is (the digest of a folder, or a hub's name and revision), its settings, and the two
    texts as it reads them.

    Args:
        name: Its name in the recipe.
        config: Its section.

    Raises:
        DataError: A package or folder that is named is not there.
    """

    def __init__(self, name: str, config: ClassifierTeacherConfig) -> None:
        super().__init__(name, family=config.family, label_map=config.label_map, batch_size=config.batch_size)
        self._config = config
        self._source = packaged_folder(config.model)
        local = Path(self._source).is_dir()
        self._digest = folder_digest(Path(self._source)) if local else f"{config.model} {config.revision or ''}"
        self._tokenizer: Any = None
        self._model: Any = None
        self._labels: list[str] = []

    @property
    def identity(self) -> Sequence[str]:
        """The model, and the settings that change what it reads or how it computes."""
        return ("classifier", self._digest, str(self._config.max_length), self._config.dtype)

    def compile(self, prompt: Prompt, *, sample: int) -> Request:
        """Writes the two texts down.

        Raises:
            DataError: A template names what is no input.
        """
        return self.request(to_json(self._texts(prompt.values)), sample=sample, row_id=prompt.row_id)

    def _texts(self, values: Mapping[str, str]) -> list[str]:
        first, *others = values
        config = self._config
        try:
            texts = [values[first] if config.first is None else config.first.format_map(values)]
            if config.second is None:
                named = [f"{name}: {values[name]}" for name in others if values[name]]
                texts += [" ".join(named)] if others else []
            elif config.second:
                texts.append(config.second.format_map(values))
        except KeyError as error:
            raise DataError(
                f"teachers.{self.name}: the template names {error.args[0]!r}, the task has the inputs "
                f"{', '.join(values)}; correct first or second"
            ) from None
        return texts

    def load(self) -> None:
        """Loads tokenizer and model.

        Raises:
            DataError: It is no classifier, or has labels that cannot be told apart.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        config = self._config
        device = config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        name = config.dtype
        if name == "auto":
            name = "bfloat16" if device.startswith("cuda") else "float32"
        revision = config.revision or "main"
        with _quiet():
            self._tokenizer = AutoTokenizer.from_pretrained(self._source, revision=revision)
            model, found = AutoModelForSequenceClassification.from_pretrained(
                self._source, revision=revision, dtype=getattr(torch, name), output_loading_info=True
            )
        # transformers would draw what is missing at random, and the answers would be noise.
        if missing := sorted(found["missing_keys"]):
            raise DataError(
                f"{config.model}: no classifier, its weights lack {', '.join(missing[:4])}; give one that was "
                "fine-tuned for classification"
            )
        self._labels = _labels_of(model.config, config.model)
        self._model = model.to(device).eval()

    def unload(self) -> None:
        """Lets go of both."""
        self._model = self._tokenizer = None

    def score(self, parts: Sequence[bytes]) -> list[Mapping[str, float]]:
        """Scores pairs of like length together; the order of the rows changes no answer by more than rounding."""
        import torch

        assert self._model is not None, "open() comes before ask()"
        config = self._config
        texts: list[list[str]] = [from_json(part) for part in parts]
        order = sorted(range(len(texts)), key=lambda place: sum(map(len, texts[place])))
        found: list[Mapping[str, float]] = [{}] * len(texts)
        with _threads(config.threads), torch.inference_mode():
            for start in range(0, len(order), config.batch_size):
                places = order[start : start + config.batch_size]
                columns = [[texts[place][side] for place in places] for side in range(len(texts[0]))]
                batch = self._tokenizer(
                    *columns, padding=True, truncation=True, max_length=config.max_length, return_tensors="pt"
                ).to(self._model.device)
                for place, probs in zip(places, self._probs(self._model(**batch).logits.float()), strict=True):
                    found[place] = dict(zip(self._labels, probs, strict=True))
        return found

    def _probs(self, logits: Any) -> list[list[float]]:
        """Probabilities ``[rows, labels]`` of logits: softmax; of a single logit z, sigmoid(z) and 1 - sigmoid(z).

        A model of labels that do not exclude one another gives the sigmoid of each; the engine makes them sum to one.
        """
        import torch

        if logits.shape[1] == 1:
            positive = torch.sigmoid(logits)
            rows = torch.cat([positive, 1 - positive], dim=1)
        elif self._model.config.problem_type == "multi_label_classification":
            rows = torch.sigmoid(logits)
        else:
            rows = torch.softmax(logits, dim=1)
        probs: list[list[float]] = rows.cpu().tolist()
        return probs


def _labels_of(config: Any, model: str) -> list[str]:
    if config.num_labels == 1:
        return [_POSITIVE, _NEGATIVE]
    labels = [str(config.id2label[number]) for number in range(config.num_labels)]
    if len(set(labels)) < len(labels):
        raise DataError(f"{model}: its labels repeat, got {labels}; correct id2label in its config.json")
    return labels


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the bars and reports of transformers, which would break the progress shown; errors are raised."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Runs torch on so many CPU threads, and on as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)

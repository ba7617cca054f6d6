"""How near query and title are to a pretrained sentence encoder, which is never trained here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.labeling.errors import DataError, StudentError
from distill.labeling.packaged_folder import packaged_folder
from distill.students.onnx_network import MODEL_FILE, open_session
from distill.students.surroundings import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STATES = "last_hidden_state"
"""Output of an encoder in ONNX, ``[batch, length, width]`` float32."""
SIMILARITY_FOLDER = "similarity"
"""Within a student's folder."""
_MAX_TOKENS = 48
"""Of a query or a title; more says little and costs time."""
_BATCH = 64

SIMILARITY_NAMES = (
    "similarity.whole",
    "similarity.query_mean",
    "similarity.query_least",
    "similarity.title_mean",
)
"""Columns of :meth:`Similarity.features`."""


@dataclass(frozen=True)
class _States:
    """What an encoder makes of a text: its mean state ``[D]`` and those of its tokens ``[T, D]``, all of length one."""

    mean: np.ndarray
    tokens: np.ndarray


class Similarity:
    """Cosines of sentence embeddings, and of the tokens behind them.

    A sentence embedding is the mean of a text's token states (Reimers & Gurevych 2019); tokens meet as in late
    interaction (Khattab & Zaharia 2020, ColBERT): each with the nearest one of the other text.

    Args:
        model: An encoder, of torch or a :class:`_OnnxEncoder`.
        tokenizer: Its tokenizer.

    Attributes:
        bf16_speeds_up: Whether bfloat16 means anything to it.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        import torch

        self.bf16_speeds_up = not isinstance(model, _OnnxEncoder)
        on_gpu = torch.cuda.is_available() and self.bf16_speeds_up
        self._device = torch.device("cuda" if on_gpu else "cpu")
        self._model = model.to(self._device).eval()
        self._tokenizer: Any = tokenizer

    @classmethod
    def load(cls, base: str | Path) -> Similarity:
        """Reads a pretrained encoder, one that :meth:`save` wrote, or one that was exported.

        Args:
            base: An id, a folder, or ``package:NAME/FOLDER``.

        Raises:
            StudentError: It cannot be found or is no encoder.
            MissingDependencyError: It was exported, and ONNX Runtime is not installed.
        """
        import torch
        from transformers import AutoModel, AutoTokenizer

        try:
            source = packaged_folder(str(base))
            exported = Path(source) / MODEL_FILE
            with quiet():
                if exported.is_file():
                    model: Any = _OnnxEncoder(open_session(exported))
                else:
                    model = AutoModel.from_pretrained(source, dtype=torch.float32)
                return cls(model, AutoTokenizer.from_pretrained(source))
        except (DataError, OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0][:300]
            raise StudentError(
                f"wide.similarity: {str(base)!r} cannot be loaded as a sentence encoder: {reason}; give a folder, an "
                "id while online, or package:NAME/FOLDER for one inside an installed package"
            ) from error

    @property
    def parameters(self) -> int:
        """Of the encoder; 0 of an exported one, which does not say."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    def features(self, queries: Sequence[str], titles: Sequence[str], *, bf16: bool = False) -> np.ndarray:
        """How near each pair is, ``[N, 4]`` in the order of ``SIMILARITY_NAMES``, each from -1 to 1.

        The cosine of both texts; of the query's tokens, each beside the nearest one of the title, the mean and the
        least, which says whether one word of the query has nothing like it; of the title's, the mean. All 0 where a
        text is empty. The states of all tokens are in memory meanwhile: some 50 KB a pair.

        Args:
            queries: Texts. Those that recur are read once.
            titles: As many others.
            bf16: Compute in bfloat16, good to about two digits.
        """
        found = np.zeros((len(queries), len(SIMILARITY_NAMES)))
        states = self._states({*queries, *titles} - {""}, bf16=bf16)
        for number, (query, title) in enumerate(zip(queries, titles, strict=True)):
            if query in states and title in states:
                found[number] = _nearness(states[query], states[title])
        return found

    def save(self, folder: Path) -> None:
        """Writes what :meth:`load` reads, in half the room: weights in float16."""
        import torch

        shutil.rmtree(folder, ignore_errors=True)
        with quiet():
            state = {name: value.to(torch.float16) for name, value in self._model.state_dict().items()}
            self._model.save_pretrained(folder, state_dict=state)
        self.save_tokenizer(folder)

    def save_tokenizer(self, folder: Path) -> None:
        """Writes how texts are cut, all that an exported encoder needs beside its model."""
        with quiet():
            self._tokenizer.save_pretrained(folder)

    def traceable(self) -> tuple[Any, dict[str, Any]]:
        """The encoder on the CPU as a module from tensors to token states, and a batch of two lengths for it."""
        import torch

        batch = dict(self._batch(["red lamp", "lamp"])[0])
        names, encoder = list(batch), self._model.to("cpu").eval()
        # The fused kind leaves the mask out where nothing is padded, which tracing would take for good.
        encoder.set_attn_implementation("eager")
        self._device = torch.device("cpu")

        class Traceable(torch.nn.Module):
            """Tensors in the place of names, which is all that tracing knows."""

            def __init__(self) -> None:
                super().__init__()
                self.encoder = encoder

            def forward(self, *tensors: Any) -> Any:
                return self.encoder(**dict(zip(names, tensors, strict=True))).last_hidden_state

        return Traceable().eval(), {name: tensor.cpu() for name, tensor in batch.items()}

    def _batch(self, texts: Sequence[str]) -> tuple[Any, Any]:
        """What the encoder reads of texts, and ``[N, L]`` which of it are tokens of their own."""
        batch = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=_MAX_TOKENS,
            split_special_tokens=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        special = batch.pop("special_tokens_mask").bool()
        return batch, batch["attention_mask"].bool() & ~special

    def _states(self, texts: set[str], *, bf16: bool) -> dict[str, _States]:
        """States of each text that has a token."""
        ordered = sorted(texts, key=lambda text: (len(text), text))  # like lengths share a batch
        batches = (ordered[start : start + _BATCH] for start in range(0, len(ordered), _BATCH))
        return {text: states for batch in batches for text, states in self._read(batch, bf16=bf16)}

    def _read(self, texts: list[str], *, bf16: bool) -> Iterator[tuple[str, _States]]:
        import torch
        from torch.nn.functional import normalize

        autocast = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=bf16)
        with quiet(), torch.inference_mode(), autocast:
            batch, own = self._batch(texts)
            states = self._model(**batch.to(self._device)).last_hidden_state.float()
            mask = batch["attention_mask"][..., None].float()
            means = normalize((states * mask).sum(1) / mask.sum(1).clamp(min=1.0), dim=-1)
            tokens = normalize(states, dim=-1).cpu().numpy()
        for text, mean, token, kept in zip(texts, means.cpu().numpy(), tokens, own.numpy(), strict=True):
            if kept.any():
                yield text, _States(mean, token[kept])


def _nearness(query: _States, title: _States) -> tuple[float, float, float, float]:
    """One line of :meth:`Similarity.features`."""
    cosines = query.tokens @ title.tokens.T
    nearest = cosines.max(axis=1)
    return float(query.mean @ title.mean), float(nearest.mean()), float(nearest.min()), float(cosines.max(0).mean())


class _OnnxEncoder:
    """An exported encoder, called as one of transformers is.

    Args:
        session: An ``onnxruntime.InferenceSession``.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._inputs = [given.name for given in session.get_inputs()]

    def to(self, device: Any) -> _OnnxEncoder:
        """Stays on the CPU."""
        return self

    def parameters(self) -> Iterator[Any]:
        """None that are known."""
        return iter(())

    def eval(self) -> _OnnxEncoder:
        """Never trains."""
        return self

    def __call__(self, **batch: Any) -> SimpleNamespace:
        """States of the tokens, ``[N, L, D]``."""
        import torch

        (states,) = self._session.run([STATES], {name: batch[name].numpy() for name in self._inputs})
        return SimpleNamespace(last_hidden_state=torch.from_numpy(states))

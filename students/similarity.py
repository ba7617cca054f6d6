"""How near two texts are to a pretrained sentence encoder, which is never trained here."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
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


class Similarity:
    """Cosines of sentence embeddings: the mean of a text's token states (Reimers & Gurevych 2019).

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

    def cosines(self, first: Sequence[str], second: Sequence[str], *, bf16: bool = False) -> np.ndarray:
        """Cosine of each pair, ``[N]`` from -1 to 1; 0 where a text is empty. Texts that recur are read once.

        Args:
            first: Texts.
            second: As many others.
            bf16: Compute in bfloat16, good to about two digits.
        """
        texts = sorted({*first, *second} - {""}, key=lambda text: (len(text), text))
        states = self._embed(texts, bf16=bf16)
        place = {text: number for number, text in enumerate(texts)}
        found = np.zeros(len(first))
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            if one and other:
                found[number] = states[place[one]] @ states[place[other]]
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

        batch = dict(self._batch(["red lamp", "lamp"]))
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

    def _batch(self, texts: Sequence[str]) -> Any:
        return self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=_MAX_TOKENS,
            split_special_tokens=True,
            return_tensors="pt",
        )

    def _embed(self, texts: Sequence[str], *, bf16: bool) -> np.ndarray:
        """Embeddings of length one, ``[N, D]``."""
        import torch
        from torch.nn.functional import normalize

        found = []
        autocast = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=bf16)
        with quiet(), torch.inference_mode(), autocast:
            for start in range(0, len(texts), _BATCH):
                batch = self._batch(texts[start : start + _BATCH]).to(self._device)
                states = self._model(**batch).last_hidden_state.float()
                mask = batch["attention_mask"][..., None].float()
                means = (states * mask).sum(1) / mask.sum(1).clamp(min=1.0)
                found.append(normalize(means, dim=1).cpu().numpy())
        return np.concatenate(found) if found else np.zeros((0, 1), dtype=np.float32)


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

    def eval(self) -> _OnnxEncoder:
        """Never trains."""
        return self

    def __call__(self, **batch: Any) -> SimpleNamespace:
        """States of the tokens, ``[N, L, D]``."""
        import torch

        (states,) = self._session.run([STATES], {name: batch[name].numpy() for name in self._inputs})
        return SimpleNamespace(last_hidden_state=torch.from_numpy(states))

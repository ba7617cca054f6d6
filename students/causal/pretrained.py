"""Loads the GPT that a causal student starts from or was saved as, and saves it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from distill.labeling.errors import DataError, MissingDependencyError, StudentError
from distill.labeling.packaged_folder import packaged_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from distill.students.causal.config import LoraSection, Quantization

_ADAPTER_FILE = "adapter_config.json"


class Loaded(NamedTuple):
    """A language model and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_base(base: str, *, quantization: Quantization | None = None) -> Loaded:
    """Loads a pretrained GPT in float32, or with its matrices held in 8 or 4 bits.

    Args:
        base: A Hugging Face id, a folder, or ``package:NAME/FOLDER``.
        quantization: ``8bit`` (LLM.int8(), Dettmers et al. 2022) or ``4bit`` (NF4, Dettmers et al. 2023).

    Raises:
        StudentError: It cannot be found, or is no causal language model.
        MissingDependencyError: bitsandbytes is wanted and absent.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = _folder_of(base)
    settings: dict[str, Any] = {"dtype": torch.float32, **attention()}
    if quantization is not None:
        settings["quantization_config"] = _bits(quantization)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, **settings)
    except (OSError, ValueError, RuntimeError) as error:
        raise StudentError(_not_found(base, error)) from error
    _keep_trainable(model)
    if tokenizer.eos_token_id is None:
        raise StudentError(f"causal: base {base!r}: its tokenizer has no end token; name another base")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Loaded(model, tokenizer)


def attention() -> dict[str, Any]:
    """How attention is computed: on a CPU plainly, whose backward pass takes 0.75 of the fused one's time in bf16."""
    import torch

    return {} if torch.cuda.is_available() else {"attn_implementation": "eager"}


def load_saved(folder: Path) -> Loaded:
    """Loads what :func:`save` wrote: whole weights, or adapters on the base that they name.

    Raises:
        StudentError: The folder is not whole, or the base of its adapters cannot be found.
        MissingDependencyError: The folder holds adapters, and peft is absent.
    """
    if (folder / _ADAPTER_FILE).is_file():
        _peft()
    return load_base(str(folder))


def with_adapters(model: PreTrainedModel, section: LoraSection) -> Any:
    """Puts low-rank adapters into a model, which are then all that is trained.

    Raises:
        MissingDependencyError: peft is absent.
        StudentError: The model has no modules of the names in ``targets``.
    """
    peft = _peft()
    targets = section.targets if isinstance(section.targets, str) else list(section.targets)
    settings = peft.LoraConfig(
        r=section.r,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    if getattr(model, "is_quantized", False):
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    try:
        return peft.get_peft_model(model, settings)
    except ValueError as error:
        raise StudentError(f"causal: lora.targets: {str(error)[:300]}; set targets: all-linear") from error


def save(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, *, base: str, lora: LoraSection | None) -> None:
    """Writes what ``AutoModelForCausalLM``, peft and servers load.

    Adapters of a quantised base are added to the base's own weights, loaded anew: added to the rounded ones they would
    be rounded with them.

    Args:
        model: A language model, or one with adapters.
        tokenizer: Its tokenizer; the chat template goes with it.
        folder: Where to write.
        base: What the model was loaded from.
        lora: How adapters are saved; None for a model without.
    """
    tokenizer.save_pretrained(folder)
    if lora is None:
        model.save_pretrained(folder)
    elif not lora.merge:
        model.save_pretrained(folder, save_embedding_layers=False)
    elif getattr(model.get_base_model(), "is_quantized", False):
        adapters = folder / "adapters"
        model.save_pretrained(adapters, save_embedding_layers=False)
        whole = _peft().PeftModel.from_pretrained(load_base(base).model, adapters)
        whole.merge_and_unload().save_pretrained(folder)
        for file in adapters.iterdir():
            file.unlink()
        adapters.rmdir()
    else:
        model.merge_and_unload().save_pretrained(folder)


def _folder_of(base: str) -> str:
    try:
        return packaged_folder(base)
    except DataError as error:
        raise StudentError(f"causal: base {error}") from None


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise MissingDependencyError("peft", needed_for="causal: lora", install="pip install 'distill[peft]'") from None
    return peft


def _keep_trainable(model: PreTrainedModel) -> None:
    """Has bitsandbytes leave 4-bit matrices as they are on a CPU.

    A pass in evaluation mode, such as every validation, would lay them out anew for speed, and the training that goes
    on after it gets no gradient through them, with a warning that is easily missed (bitsandbytes 0.50).
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _bits(quantization: Quantization) -> Any:
    import importlib.util

    import torch
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError(
            "bitsandbytes", needed_for=f"causal: quantization: {quantization}", install="pip install 'distill[qlora]'"
        )
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    computes_in = torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=computes_in)


def _not_found(base: str, error: Exception) -> str:
    reason = str(error).strip().split("\n")[0][:300]
    tried = "as a folder" if Path(base).exists() else "as a folder (there is none), the Hugging Face cache, and the Hub"
    return (
        f"causal: base {base!r}: cannot be loaded as a causal language model; tried {tried}: {reason}; give the folder "
        "of one, an id while online, package:NAME/FOLDER for one inside an installed package, or tiny"
    )

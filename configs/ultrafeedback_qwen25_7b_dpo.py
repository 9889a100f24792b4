"""DPO of Qwen2.5-7B-Instruct on UltraFeedback: configs/ultrafeedback_llama3_8b_dpo.py with another model.

Paper:    as there; no published figure for this pair of model and data is known to us.
Command:  python -m jaxalign.train --config configs/ultrafeedback_qwen25_7b_dpo.py --workdir runs/uf_qwen
Hardware: 8 x H100, or a TPU v5p 2x2x2 slice and larger; needs a network for model and data. Not yet run by us at this size.
"""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The Llama-3 config with Qwen's checkpoint and a somewhat stronger pull to the reference."""
    spec = importlib.util.spec_from_file_location("base", Path(__file__).with_name("ultrafeedback_llama3_8b_dpo.py"))
    base = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(base)
    config = base.get_config(checkpoint="Qwen/Qwen2.5-7B-Instruct")
    config.objective.beta = 0.1
    config.optimizer.learning_rate = 5e-7
    return config

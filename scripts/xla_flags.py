"""XLA flags that may speed up GPU programs, for `accelerator.py --flags`."""

from typing import Literal

Flag = Literal[
    "latency-hiding",
    "command-buffers",
    "no-command-buffers",
    "triton-gemm-any",
    "no-triton-gemm",
    "cudnn-gemm",
    "double-buffering",
    "preallocated",
]

FLAGS: dict[str, dict[str, str]] = {
    "latency-hiding": {"XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=true"},
    "command-buffers": {
        "XLA_FLAGS": "--xla_gpu_graph_min_graph_size=1 --xla_gpu_enable_command_buffer="
        "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,WHILE,CONDITIONAL,DYNAMIC_SLICE_FUSION"
    },
    "no-command-buffers": {"XLA_FLAGS": "--xla_gpu_enable_command_buffer="},
    "triton-gemm-any": {"XLA_FLAGS": "--xla_gpu_triton_gemm_any=true"},
    "no-triton-gemm": {"XLA_FLAGS": "--xla_gpu_enable_triton_gemm=false"},
    "cudnn-gemm": {"XLA_FLAGS": "--xla_gpu_cudnn_gemm_fusion_level=2"},
    "double-buffering": {"XLA_FLAGS": "--xla_gpu_enable_while_loop_double_buffering=true"},
    "preallocated": {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "true",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9",
    },
}
"""Environment variables by name of the flag; XLA rejects flags that it does not know."""

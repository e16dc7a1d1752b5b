"""XLA's flags for programs that are compiled once and run for a moment."""

#: Kernels by LLVM's own code generator, not by way of MLIR, all in one module.
QUICK = (
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters=true"
    " --xla_cpu_parallel_codegen_split_count=1"
)

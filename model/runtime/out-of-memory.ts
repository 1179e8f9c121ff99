import type { OrtError } from '../errors.js'

/** In the order of the sources below. */
const WORDS = [
  /failed to allocate memory/i,
  /arena ran out of memory/i,
  /available memory of \d+ is smaller than requested/i,
  /memory allocation failed/i,
  /bad_alloc|bad allocation/i,
  /\bout of memory\b/i,
  /CUBLAS_STATUS_ALLOC_FAILED/,
]

/**
 * Whether a call was refused for a lack of memory. ONNX Runtime has no code for that (it comes as 1, FAIL, or 6,
 * RUNTIME_EXCEPTION): it is in the words, of its arena, of its allocators, of C++, of CUDA and of cuBLAS.
 * Source: bfc_arena.cc (run here: test/engine/faults.test.ts), allocator.cc, cuda_call.cc of ONNX Runtime 1.30.
 */
export function isOutOfMemory(error: OrtError): boolean {
  return WORDS.some((words) => words.test(error.reason))
}

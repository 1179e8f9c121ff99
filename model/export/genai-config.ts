import { FILES, type Target } from '../folder.js'
import type { GemmaConfig } from '../gemma.js'

/**
 * The genai_config.json that onnxruntime-genai reads beside the model. Sampling is greedy unless its user says otherwise.
 * Source: make_genai_config in onnxruntime-genai 0.17.1, models/builders/base.py.
 */
export function genaiConfig(config: GemmaConfig, endTokenIds: readonly number[], target: Target): object {
  return {
    model: {
      type: 'gemma',
      bos_token_id: config.bosTokenId,
      eos_token_id: endTokenIds,
      pad_token_id: config.padTokenId,
      context_length: config.maxPositions,
      vocab_size: config.vocabSize,
      decoder: {
        session_options: {
          log_id: 'onnxruntime-genai',
          provider_options: target === 'cuda' ? [{ cuda: {} }] : [],
        },
        filename: FILES.portableModel,
        head_size: config.headSize,
        hidden_size: config.hiddenSize,
        num_attention_heads: config.heads,
        num_hidden_layers: config.layers,
        num_key_value_heads: config.kvHeads,
        inputs: {
          input_ids: 'input_ids',
          attention_mask: 'attention_mask',
          past_key_names: 'past_key_values.%d.key',
          past_value_names: 'past_key_values.%d.value',
        },
        outputs: {
          logits: 'logits',
          present_key_names: 'present.%d.key',
          present_value_names: 'present.%d.value',
        },
      },
    },
    search: {
      do_sample: false,
      max_length: config.maxPositions,
      min_length: 0,
      num_beams: 1,
      num_return_sequences: 1,
      past_present_share_buffer: true,
      repetition_penalty: 1,
      temperature: 1,
      top_k: 1,
      top_p: 1,
    },
  }
}

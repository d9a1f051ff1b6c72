/*
 * Purpose: every hard cap of the program, with its unit and its reason. Settings may be stricter.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  this file.
 */
#ifndef PHI_CONFIG_LIMITS_H
#define PHI_CONFIG_LIMITS_H

/* --- model files ------------------------------------------------------------------------- */

/* The safetensors specification's own cap on its JSON header, in bytes. */
#define PHI_LIMIT_SAFETENSORS_HEADER_BYTES 100000000U
/* Tensors in one checkpoint; Phi-3.5-MoE has about 1,700 unfused. */
#define PHI_LIMIT_TENSORS 65536U
/* Shards of one checkpoint; the largest Phi (MoE, fp32) has 34. */
#define PHI_LIMIT_SHARDS 1024U
/* A tensor's name: GGUF allows 64, Hugging Face names reach about 90. In bytes. */
#define PHI_LIMIT_TENSOR_NAME_BYTES 256U
/* Dimensions of a tensor (GGUF's own limit). */
#define PHI_LIMIT_TENSOR_DIMS 4U
/* Metadata entries in one GGUF; real files have under 60. */
#define PHI_LIMIT_GGUF_KEYS 4096U
/* One GGUF string: the largest real ones are whole tokenizer files. In bytes. */
#define PHI_LIMIT_GGUF_STRING_BYTES (64U << 20)
/* Elements of one GGUF array: the merges of the largest vocabulary are about 200,000. */
#define PHI_LIMIT_GGUF_ARRAY_COUNT (4U << 20)
/* All GGUF metadata kept in memory, in bytes. */
#define PHI_LIMIT_GGUF_METADATA_BYTES (256U << 20)
/* The pickle in a PyTorch file, in bytes: it takes about 200 a tensor. */
#define PHI_LIMIT_PICKLE_BYTES (64U << 20)
/* One string in it, in bytes: names of tensors, keys of storages, and text of no use to us. */
#define PHI_LIMIT_PICKLE_STRING_BYTES 65536U
/* Values on its stack: two a tensor where a dict is filled at once. */
#define PHI_LIMIT_PICKLE_STACK (1U << 18)
/* Values that it remembers: writers remember about ten a tensor. */
#define PHI_LIMIT_PICKLE_MEMO (1U << 20)
/* Containers that are begun and not yet complete; a state dict needs four. */
#define PHI_LIMIT_PICKLE_DEPTH 64U
/* All that it builds, in bytes: about 400 a tensor. */
#define PHI_LIMIT_PICKLE_MEMORY_BYTES (256U << 20)
/* Files in a zip archive of PyTorch's: one a tensor, and a few of its own. */
#define PHI_LIMIT_ZIP_ENTRIES (PHI_LIMIT_TENSORS + 64U)
/* The list of them, in bytes: about 80 a file. */
#define PHI_LIMIT_ZIP_DIRECTORY_BYTES (32U << 20)
/* Nesting of Protocol Buffers messages: an ONNX model with branches has 9. */
#define PHI_LIMIT_PROTOBUF_DEPTH 16U
/* Nodes of an ONNX graph, those of branches included; Phi-3-mini's has about 500, Phi-3.5-MoE's
 * 9,000. */
#define PHI_LIMIT_ONNX_NODES 65536U
/* Names, attributes and shapes of an ONNX graph kept in memory, in bytes. */
#define PHI_LIMIT_ONNX_METADATA_BYTES (128U << 20)
/* config.json, generation_config.json, index files, in bytes: real ones stay under 1 MiB. */
#define PHI_LIMIT_CONFIG_JSON_BYTES (16U << 20)
/* tokenizer.json, in bytes: o200k's is about 16 MB when pretty-printed. */
#define PHI_LIMIT_TOKENIZER_JSON_BYTES (64U << 20)
/* JSON nesting in any file or body; jansson's own guard is 2048, no honest file needs 64. */
#define PHI_LIMIT_JSON_DEPTH 64U
/* Values in the JSON of one model file: a header of PHI_LIMIT_TENSORS tensors stays under this. */
#define PHI_LIMIT_JSON_VALUES (1U << 20)

/* openvino_model.xml, in bytes: Phi-3-mini's has 2.4 MB. */
#define PHI_LIMIT_OPENVINO_XML_BYTES (64U << 20)
/* Its layers (Phi-3-mini's has about 5,400) and its inputs and edges; nesting of its elements. */
#define PHI_LIMIT_OPENVINO_LAYERS (1U << 18)
#define PHI_LIMIT_OPENVINO_EDGES (1U << 20)
#define PHI_LIMIT_OPENVINO_DEPTH 32U
/* Dimensions of a constant in it. */
#define PHI_LIMIT_OPENVINO_DIMS 6U
/* Names of its layers and variables, in bytes. */
#define PHI_LIMIT_OPENVINO_NAMES_BYTES (32U << 20)

/* --- model dimensions (sanity bounds; twice the largest Phi or more) ------------------------ */
#define PHI_LIMIT_LAYERS 512U
#define PHI_LIMIT_HIDDEN 65536U
#define PHI_LIMIT_HEADS 1024U
#define PHI_LIMIT_HEAD_DIM 1024U
#define PHI_LIMIT_FFN 262144U
#define PHI_LIMIT_EXPERTS 32U
#define PHI_LIMIT_VOCAB 1048576U
#define PHI_LIMIT_CONTEXT 1048576U

/* --- text ----------------------------------------------------------------------------------- */

/* One text to tokenize, in bytes: more than the longest context can hold. */
#define PHI_LIMIT_TEXT_BYTES (16U << 20)
/* One vocabulary piece, in bytes. */
#define PHI_LIMIT_PIECE_BYTES 4096U
/* Pairs of pieces that a vocabulary with scores may join, each of about 40 bytes of memory: a list
 * of merges has at most as many (PHI_LIMIT_GGUF_ARRAY_COUNT). */
#define PHI_LIMIT_SCORED_MERGES (4U << 20)
/* A tokenizer's pattern, in bytes: o200k's, the longest known, has under 500. */
#define PHI_LIMIT_PATTERN_BYTES 16384U
/* Steps of one match of such a pattern: a text of PHI_LIMIT_TEXT_BYTES can need one each byte. */
#define PHI_LIMIT_PATTERN_STEPS 50000000U
/* Time of all matches in one text: a second, and some for each byte of it; the patterns of the Phi
 * models took at most 60 ns a byte, where nearly every byte is a word. */
#define PHI_LIMIT_PATTERN_NS 1000000000U
#define PHI_LIMIT_PATTERN_NS_PER_BYTE 100U
/* A chat template's source, in bytes; Phi-4-reasoning's is 4 KB. */
#define PHI_LIMIT_TEMPLATE_BYTES (256U << 10)
/* Nesting of template statements and expressions. */
#define PHI_LIMIT_TEMPLATE_DEPTH 64U
/* Steps that rendering one chat may take, so that a hostile template ends. */
#define PHI_LIMIT_TEMPLATE_STEPS 1000000U
/* Messages in one chat request. */
#define PHI_LIMIT_CHAT_MESSAGES 4096U

/* --- generation ----------------------------------------------------------------------------- */

/* Stop strings of one request (OpenAI's own limit) and the length of each, in bytes. */
#define PHI_LIMIT_STOP_STRINGS 4U
#define PHI_LIMIT_STOP_BYTES 256U
/* Alternatives reported for each token (OpenAI's own limit). */
#define PHI_LIMIT_TOP_LOGPROBS 20U
/* Tokens and alternatives in the logprobs of one answer that is not streamed: each takes about 700
 * bytes until the answer is sent. */
#define PHI_LIMIT_LOGPROBS 131072U
/* Choices of one request (OpenAI's own limit is 128). */
#define PHI_LIMIT_CHOICES 128U
/* Entries of logit_bias (OpenAI's own limit is 300, rounded up). */
#define PHI_LIMIT_LOGIT_BIAS 1024U
/* Sequences that one engine holds at a time, running and waiting. */
#define PHI_LIMIT_SEQUENCES 4096U
/* Events waiting for a slow reader before its sequence is paused. */
#define PHI_LIMIT_EVENTS_PENDING 256U
/* Stop tokens of a model: the union of its configuration files' lists. */
#define PHI_LIMIT_STOP_TOKENS 32U

/* --- compute -------------------------------------------------------------------------------- */
#define PHI_LIMIT_TEAM_THREADS 256U
/* Rows of one forward step: bounds scratch memory. */
#define PHI_LIMIT_BATCH_TOKENS 512U

/* --- server --------------------------------------------------------------------------------- */

/* JSON request bodies, in bytes: a prompt of the longest context fits. */
#define PHI_LIMIT_JSON_BODY_BYTES (32U << 20)
/* JSON bodies of all requests together, as text and parsed, in bytes: more are refused as overload.
 */
#define PHI_LIMIT_JSON_BODIES_BYTES (512U << 20)
/* Bytes of a body that must arrive each second, over each idle timeout: a modem is faster. */
#define PHI_LIMIT_BODY_RATE_MIN 128U
/* One uploaded file, in bytes; the setting max_upload is usually lower. */
#define PHI_LIMIT_UPLOAD_BYTES (1ULL << 40)
/* File names, model names and other identifiers, in bytes. */
#define PHI_LIMIT_NAME_BYTES 128U
/* Files named by one job. */
#define PHI_LIMIT_JOB_FILES 256U
/* Events kept for one job. */
#define PHI_LIMIT_JOB_EVENTS 1000U
/* Entries of `metadata`, and lengths of key and value in bytes (OpenAI's own limits). */
#define PHI_LIMIT_METADATA_PAIRS 16U
#define PHI_LIMIT_METADATA_KEY_BYTES 64U
#define PHI_LIMIT_METADATA_VALUE_BYTES 512U
/* Page size of lists (OpenAI's own limit for most lists). */
#define PHI_LIMIT_PAGE 100U
/* Uploads begun and not ended, over all clients: each is a row and a file. */
#define PHI_LIMIT_UPLOADS_OPEN 1024U
/* Uploaded files and artifacts: bounds the lists and the directory of blobs. */
#define PHI_LIMIT_FILES 100000U
/* Jobs queued or running; more are refused as overload. */
#define PHI_LIMIT_JOBS_UNFINISHED 256U
/* Jobs remembered, ended ones included; the oldest ended ones are forgotten. */
#define PHI_LIMIT_JOBS_KEPT 10000U
/* Members of an uploaded archive. */
#define PHI_LIMIT_ARCHIVE_ENTRIES 4096U
/* All that stands before the data of one: its header and the extensions of it, which libarchive
 * keeps in memory, a map of a sparse member at twice its size. Names and attributes of a file take
 * a few KiB. */
#define PHI_LIMIT_ARCHIVE_HEADER_BYTES (256U << 10)

#endif

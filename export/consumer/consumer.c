// Runs one signature of an exported SavedModel from files to files, through TensorFlow's C API: .npy files, and for
// string tensors such as `png_bytes` one file of raw bytes per element.
//
// The SavedModel loader behind it is the one that TensorFlow Serving uses. There is no Python in the process: the
// tensors' names come from the export's MetaGraphDef, a protocol buffer that is walked here field by field.

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tensorflow/c/c_api.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "little-endian .npy files are read and written as they lie in memory"
#endif

enum { MOST_TENSORS = 16, MOST_DIMS = 8, MOST_TEXT = 1024 };

// Errors: one line on stderr, exit status 1.

__attribute__((format(printf, 1, 2))) static _Noreturn void die(const char* format, ...) {
  char message[4 * MOST_TEXT];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  for (char* c = message; *c; c++) {
    if (*c == '\n') *c = ' ';
  }
  fprintf(stderr, "consumer: %s\n", message);
  exit(1);
}

static void die_unless_ok(const TF_Status* status, const char* what) {
  if (TF_GetCode(status) != TF_OK) die("%s: %s", what, TF_Message(status));
}

// Appends to a text, cutting what does not fit.
__attribute__((format(printf, 3, 4))) static void append(char* text, size_t size, const char* format, ...) {
  size_t length = strlen(text);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text + length, size - length, format, arguments);
  va_end(arguments);
}

// Element types, under their names in TensorFlow, in .npy headers and in messages.

typedef struct {
  TF_DataType type;
  const char* descr;
  const char* name;
  size_t size;
} ElementType;

static const ElementType ELEMENT_TYPES[] = {
    {TF_FLOAT, "<f4", "float32", 4},
    {TF_INT32, "<i4", "int32", 4},
    {TF_UINT8, "|u1", "uint8", 1},
    {TF_INT64, "<i8", "int64", 8},
};
enum { NUM_ELEMENT_TYPES = sizeof ELEMENT_TYPES / sizeof ELEMENT_TYPES[0] };

static const ElementType* element_type_of(TF_DataType type) {
  for (int i = 0; i < NUM_ELEMENT_TYPES; i++) {
    if (ELEMENT_TYPES[i].type == type) return &ELEMENT_TYPES[i];
  }
  return NULL;
}

static const char* type_name(TF_DataType type) {
  const ElementType* element_type = element_type_of(type);
  return element_type ? element_type->name : "of a type this program does not know";
}

// .npy files: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

static const char NPY_MAGIC[] = "\x93NUMPY\x01\x00";  // and version 1.0
enum { NPY_MAGIC_SIZE = 8, NPY_PREAMBLE_SIZE = 10, NPY_ALIGNMENT = 64 };

// Returns what follows `'key':` in a header, or dies.
static const char* npy_value(const char* header, const char* key, const char* path) {
  char quoted[32];
  snprintf(quoted, sizeof quoted, "'%s':", key);
  const char* found = strstr(header, quoted);
  if (!found) die("%s must be a .npy file. Received: a header without %s", path, key);
  found += strlen(quoted);
  return found + strspn(found, " ");
}

static TF_Tensor* read_npy(const char* path) {
  FILE* file = fopen(path, "rb");
  if (!file) die("%s cannot be read: %s", path, strerror(errno));
  uint8_t preamble[NPY_PREAMBLE_SIZE];
  if (fread(preamble, 1, sizeof preamble, file) != sizeof preamble || memcmp(preamble, NPY_MAGIC, NPY_MAGIC_SIZE)) {
    die("%s must be a .npy file of format version 1.0", path);
  }
  size_t header_size = preamble[8] | (size_t)preamble[9] << 8;
  char* header = calloc(header_size + 1, 1);
  if (!header) die("%s: out of memory", path);
  if (fread(header, 1, header_size, file) != header_size) die("%s is cut off within its header", path);

  const ElementType* element_type = NULL;
  const char* descr = npy_value(header, "descr", path);
  for (int i = 0; i < NUM_ELEMENT_TYPES; i++) {
    char quoted[8];
    snprintf(quoted, sizeof quoted, "'%s'", ELEMENT_TYPES[i].descr);
    if (!strncmp(descr, quoted, strlen(quoted))) element_type = &ELEMENT_TYPES[i];
  }
  if (!element_type) {
    die("%s must be float32, int32, uint8 or int64. Received: %.*s", path, (int)strcspn(descr, ",}"), descr);
  }
  if (strncmp(npy_value(header, "fortran_order", path), "False", 5)) die("%s must be in C order", path);

  int64_t dims[MOST_DIMS];
  int num_dims = 0;
  size_t size = element_type->size;
  const char* shape = npy_value(header, "shape", path);
  if (*shape++ != '(') die("%s must be a .npy file. Received: a header whose shape is not a tuple", path);
  while (*(shape += strspn(shape, ", ")) != ')') {
    char* end;
    errno = 0;
    int64_t dim = strtoll(shape, &end, 10);
    if (end == shape || errno || dim < 0) die("%s must be a .npy file. Received: a malformed shape", path);
    if (num_dims == MOST_DIMS) die("%s must have at most %d dimensions", path, MOST_DIMS);
    if (__builtin_mul_overflow(size, (size_t)dim, &size)) die("%s has a shape that overflows", path);
    dims[num_dims++] = dim;
    shape = end;
  }
  free(header);

  long start = ftell(file);
  if (start < 0 || fseek(file, 0, SEEK_END)) die("%s cannot be read: %s", path, strerror(errno));
  size_t available = (size_t)(ftell(file) - start);
  if (available != size) die("%s must hold %zu bytes of data. Received: %zu", path, size, available);
  fseek(file, start, SEEK_SET);
  TF_Tensor* tensor = TF_AllocateTensor(element_type->type, dims, num_dims, size);
  if (!tensor) die("%s: out of memory", path);
  if (fread(TF_TensorData(tensor), 1, size, file) != size) die("%s cannot be read: %s", path, strerror(errno));
  fclose(file);
  return tensor;
}

// The tensor must have one of ELEMENT_TYPES.
static void write_npy(const char* path, const TF_Tensor* tensor) {
  const ElementType* element_type = element_type_of(TF_TensorType(tensor));
  char header[MOST_TEXT] = "";
  append(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (", element_type->descr);
  for (int i = 0; i < TF_NumDims(tensor); i++) append(header, sizeof header, "%lld,", (long long)TF_Dim(tensor, i));
  append(header, sizeof header, "), }");
  size_t length = NPY_PREAMBLE_SIZE + strlen(header) + 1;
  int padding = (int)((NPY_ALIGNMENT - length % NPY_ALIGNMENT) % NPY_ALIGNMENT);
  append(header, sizeof header, "%*s\n", padding, "");
  size_t header_size = strlen(header);
  uint8_t size_bytes[2] = {header_size & 0xff, header_size >> 8};

  FILE* file = fopen(path, "wb");
  if (!file) die("%s cannot be written: %s", path, strerror(errno));
  size_t size = TF_TensorByteSize(tensor);
  bool written = fwrite(NPY_MAGIC, 1, NPY_MAGIC_SIZE, file) == NPY_MAGIC_SIZE &&
                 fwrite(size_bytes, 1, sizeof size_bytes, file) == sizeof size_bytes &&
                 fwrite(header, 1, header_size, file) == header_size &&
                 fwrite(TF_TensorData(tensor), 1, size, file) == size;
  if (fclose(file) || !written) die("%s cannot be written: %s", path, strerror(errno));
}

// String tensors of shape [n]: n files.

static char* read_bytes(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  if (!file) die("%s cannot be read: %s", path, strerror(errno));
  char* bytes = NULL;
  size_t capacity = 1 << 15;
  *size = 0;
  do {  // by reading to the end, not by asking for the size, which folders and pipes do not have
    capacity *= 2;
    bytes = realloc(bytes, capacity);
    if (!bytes) die("%s: out of memory", path);
    *size += fread(bytes + *size, 1, capacity - *size, file);
  } while (*size == capacity);
  if (ferror(file)) die("%s cannot be read: %s", path, strerror(errno));
  fclose(file);
  return bytes;
}

static void write_bytes(const char* path, const char* bytes, size_t size) {
  FILE* file = fopen(path, "wb");
  if (!file) die("%s cannot be written: %s", path, strerror(errno));
  bool written = fwrite(bytes, 1, size, file) == size;
  if (fclose(file) || !written) die("%s cannot be written: %s", path, strerror(errno));
}

static TF_Tensor* read_strings(const char* name, const char* paths) {
  int64_t num_strings = 1;
  for (const char* c = paths; *c; c++) num_strings += *c == ',';
  TF_Tensor* tensor = TF_AllocateTensor(TF_STRING, &num_strings, 1, (size_t)num_strings * sizeof(TF_TString));
  if (!tensor) die("`%s`: out of memory", name);
  TF_TString* strings = TF_TensorData(tensor);
  const char* rest = paths;
  for (int64_t i = 0; i < num_strings; i++) {
    size_t length = strcspn(rest, ","), size;
    if (!length) die("`%s` must be given as FILE,FILE,... with no name empty. Received: %s", name, paths);
    char* path = strndup(rest, length);
    if (!path) die("`%s`: out of memory", name);
    char* bytes = read_bytes(path, &size);
    TF_StringInit(&strings[i]);
    TF_StringCopy(&strings[i], bytes, size);
    free(bytes);
    free(path);
    rest += length + 1;
  }
  return tensor;
}

// Protocol buffers: https://protobuf.dev/programming-guides/encoding/

typedef struct {
  const uint8_t* data;
  size_t size;
} Bytes;

typedef struct {
  uint32_t number;
  uint64_t value;  // of a varint
  Bytes bytes;     // of a message or string
} Field;

// Numbers of the fields that are read, from tensorflow/core/protobuf/meta_graph.proto and tensor_shape.proto.
enum {
  META_GRAPH_SIGNATURE_DEF = 5,
  SIGNATURE_INPUTS = 1,
  SIGNATURE_OUTPUTS = 2,
  MAP_KEY = 1,
  MAP_VALUE = 2,
  TENSOR_NAME = 1,
  TENSOR_DTYPE = 2,
  TENSOR_SHAPE = 3,
  SHAPE_DIM = 2,
  SHAPE_UNKNOWN_RANK = 3,
  DIM_SIZE = 1,
};

static uint64_t take_varint(Bytes* rest) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && rest->size; shift += 7) {
    uint8_t byte = *rest->data++;
    rest->size--;
    value |= (uint64_t)(byte & 0x7f) << shift;
    if (!(byte & 0x80)) return value;
  }
  die("the export's MetaGraphDef is malformed");
}

static Bytes take_bytes(Bytes* rest, uint64_t size) {
  if (size > rest->size) die("the export's MetaGraphDef is malformed");
  Bytes taken = {rest->data, (size_t)size};
  rest->data += size;
  rest->size -= (size_t)size;
  return taken;
}

// Takes the next field off the front of a message; false at its end.
static bool take_field(Bytes* message, Field* field) {
  enum { VARINT = 0, FIXED64 = 1, LENGTH_DELIMITED = 2, FIXED32 = 5 };
  if (!message->size) return false;
  uint64_t tag = take_varint(message);
  *field = (Field){.number = (uint32_t)(tag >> 3)};
  switch (tag & 7) {
    case VARINT: field->value = take_varint(message); break;
    case FIXED64: take_bytes(message, 8); break;
    case LENGTH_DELIMITED: field->bytes = take_bytes(message, take_varint(message)); break;
    case FIXED32: take_bytes(message, 4); break;
    default: die("the export's MetaGraphDef is malformed");
  }
  return true;
}

// Returns the last field of that number, which is the one that counts; zeros if there is none.
static Field field_of(Bytes message, uint32_t number) {
  Field field, found = {0};
  while (take_field(&message, &field)) {
    if (field.number == number) found = field;
  }
  return found;
}

// Returns a copy of a string, ended by a zero.
static char* text_of(Bytes bytes) {
  char* text = calloc(bytes.size + 1, 1);
  if (!text) die("out of memory");
  if (bytes.size) memcpy(text, bytes.data, bytes.size);
  return text;
}

// Signatures.

typedef struct {
  char* name;   // the signature's own name for it, e.g. images
  char* where;  // in the graph, e.g. serving_default_images:0
  TF_DataType type;
  bool unknown_rank;
  int num_dims;
  int64_t dims[MOST_DIMS];  // -1 is any
} TensorSpec;

typedef struct {
  TensorSpec inputs[MOST_TENSORS], outputs[MOST_TENSORS];
  int num_inputs, num_outputs;
} Signature;

static TensorSpec parse_tensor_spec(Bytes entry) {
  Bytes info = field_of(entry, MAP_VALUE).bytes, shape = field_of(info, TENSOR_SHAPE).bytes;
  TensorSpec spec = {
      .name = text_of(field_of(entry, MAP_KEY).bytes),
      .where = text_of(field_of(info, TENSOR_NAME).bytes),
      .type = (TF_DataType)field_of(info, TENSOR_DTYPE).value,
      .unknown_rank = field_of(shape, SHAPE_UNKNOWN_RANK).value,
  };
  Field dim;
  while (take_field(&shape, &dim)) {
    if (dim.number != SHAPE_DIM) continue;
    if (spec.num_dims == MOST_DIMS) die("`%s` must have at most %d dimensions", spec.name, MOST_DIMS);
    spec.dims[spec.num_dims++] = (int64_t)field_of(dim.bytes, DIM_SIZE).value;
  }
  return spec;
}

static void add_tensor_spec(TensorSpec* specs, int* count, Bytes entry) {
  if (*count == MOST_TENSORS) die("the signature must have at most %d inputs and outputs", MOST_TENSORS);
  specs[(*count)++] = parse_tensor_spec(entry);
}

static Signature find_signature(Bytes meta_graph, const char* name) {
  char known[MOST_TEXT] = "";
  Field field;
  while (take_field(&meta_graph, &field)) {
    if (field.number != META_GRAPH_SIGNATURE_DEF) continue;
    Bytes key = field_of(field.bytes, MAP_KEY).bytes, definition = field_of(field.bytes, MAP_VALUE).bytes;
    if (key.size == strlen(name) && !memcmp(key.data, name, key.size)) {
      Signature signature = {0};
      while (take_field(&definition, &field)) {
        if (field.number == SIGNATURE_INPUTS) add_tensor_spec(signature.inputs, &signature.num_inputs, field.bytes);
        if (field.number == SIGNATURE_OUTPUTS) add_tensor_spec(signature.outputs, &signature.num_outputs, field.bytes);
      }
      return signature;
    }
    if (key.size && key.data[0] != '_') {  // the others are TensorFlow's own, e.g. __saved_model_init_op
      append(known, sizeof known, "%s%.*s", *known ? ", " : "", (int)key.size, (const char*)key.data);
    }
  }
  die("`SIGNATURE` must be one of: %s. Received: %s", known, name);
}

static int index_of(const Signature* signature, const char* name, size_t length, const char* signature_name) {
  char known[MOST_TEXT] = "";
  for (int i = 0; i < signature->num_inputs; i++) {
    const char* candidate = signature->inputs[i].name;
    if (strlen(candidate) == length && !strncmp(candidate, name, length)) return i;
    append(known, sizeof known, "%s%s", *known ? ", " : "", candidate);
  }
  die("the inputs of %s must be: %s. Received: %.*s", signature_name, known, (int)length, name);
}

static void append_dim(char* text, size_t size, int64_t dim) {
  if (*text) append(text, size, ", ");
  if (dim < 0) {
    append(text, size, "any");
  } else {
    append(text, size, "%lld", (long long)dim);
  }
}

static void check_tensor(const TensorSpec* spec, const TF_Tensor* tensor) {
  if (TF_TensorType(tensor) != spec->type) {
    die("`%s` must be %s. Received: %s", spec->name, type_name(spec->type), type_name(TF_TensorType(tensor)));
  }
  if (spec->unknown_rank) return;
  bool fits = TF_NumDims(tensor) == spec->num_dims;
  for (int i = 0; fits && i < spec->num_dims; i++) fits = spec->dims[i] < 0 || spec->dims[i] == TF_Dim(tensor, i);
  if (fits) return;
  char expected[MOST_TEXT] = "", received[MOST_TEXT] = "";
  for (int i = 0; i < spec->num_dims; i++) append_dim(expected, sizeof expected, spec->dims[i]);
  for (int i = 0; i < TF_NumDims(tensor); i++) append_dim(received, sizeof received, TF_Dim(tensor, i));
  die("`%s` must have shape [%s]. Received: [%s]", spec->name, expected, received);
}

static TF_Tensor* read_input(const TensorSpec* spec, const char* text) {
  TF_Tensor* tensor = spec->type == TF_STRING ? read_strings(spec->name, text) : read_npy(text);
  check_tensor(spec, tensor);
  return tensor;
}

static void check_output(const TensorSpec* spec, const TF_Tensor* tensor) {
  TF_DataType type = TF_TensorType(tensor);
  if (type == TF_STRING) {
    if (TF_NumDims(tensor) == 1) return;
    die("the output `%s` must have rank 1, being string. Received: rank %d", spec->name, TF_NumDims(tensor));
  }
  if (!element_type_of(type)) die("the output `%s` cannot be written: it is %s", spec->name, type_name(type));
}

// Writes an output that was checked, and prints where.
static void write_output(const char* out_dir, const TensorSpec* spec, const TF_Tensor* tensor) {
  char path[4 * MOST_TEXT];
  if (TF_TensorType(tensor) != TF_STRING) {
    snprintf(path, sizeof path, "%s/%s.npy", out_dir, spec->name);
    write_npy(path, tensor);
    puts(path);
    return;
  }
  const TF_TString* strings = TF_TensorData(tensor);
  for (int64_t row = 0; row < TF_Dim(tensor, 0); row++) {
    snprintf(path, sizeof path, "%s/%s.%lld", out_dir, spec->name, (long long)row);
    write_bytes(path, TF_StringGetDataPointer(&strings[row]), TF_StringGetSize(&strings[row]));
    puts(path);
  }
}

// Returns the output of an operation that a text like `serving_default_images:0` names.
static TF_Output output_of(TF_Graph* graph, const TensorSpec* spec) {
  char operation[MOST_TEXT];
  const char* colon = strrchr(spec->where, ':');
  size_t length = colon ? (size_t)(colon - spec->where) : strlen(spec->where);
  snprintf(operation, sizeof operation, "%.*s", (int)length, spec->where);
  TF_Output output = {TF_GraphOperationByName(graph, operation), colon ? atoi(colon + 1) : 0};
  if (!output.oper) die("the export's graph has no operation %s for `%s`", operation, spec->name);
  return output;
}

int main(int argc, char** argv) {
  if (argc < 5 || strcmp(argv[argc - 2], "-o")) {
    die("usage: consumer EXPORT_DIR SIGNATURE NAME=FILE.npy ... -o OUT_DIR (FILE,FILE,... for a string input)");
  }
  const char *export_dir = argv[1], *signature_name = argv[2], *out_dir = argv[argc - 1];

  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_Buffer* meta_graph = TF_NewBuffer();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* const tags[] = {"serve"};
  TF_Session* session = TF_LoadSessionFromSavedModel(options, NULL, export_dir, tags, 1, graph, meta_graph, status);
  die_unless_ok(status, export_dir);
  Signature signature = find_signature((Bytes){meta_graph->data, meta_graph->length}, signature_name);

  TF_Output inputs[MOST_TENSORS], outputs[MOST_TENSORS];
  TF_Tensor *input_tensors[MOST_TENSORS] = {0}, *output_tensors[MOST_TENSORS] = {0};
  for (int i = 3; i < argc - 2; i++) {
    const char* equals = strchr(argv[i], '=');
    if (!equals) die("an input must be given as NAME=FILE.npy or NAME=FILE,FILE,... Received: %s", argv[i]);
    int index = index_of(&signature, argv[i], (size_t)(equals - argv[i]), signature_name);
    if (input_tensors[index]) die("`%s` must be given once", signature.inputs[index].name);
    input_tensors[index] = read_input(&signature.inputs[index], equals + 1);
    inputs[index] = output_of(graph, &signature.inputs[index]);
  }
  for (int i = 0; i < signature.num_inputs; i++) {
    const TensorSpec* spec = &signature.inputs[i];
    const char* files = spec->type == TF_STRING ? "FILE,FILE,..." : "FILE.npy";
    if (!input_tensors[i]) die("%s must be given `%s`: add %s=%s", signature_name, spec->name, spec->name, files);
  }
  for (int i = 0; i < signature.num_outputs; i++) outputs[i] = output_of(graph, &signature.outputs[i]);

  TF_SessionRun(session, NULL, inputs, input_tensors, signature.num_inputs, outputs, output_tensors,
                signature.num_outputs, NULL, 0, NULL, status);
  die_unless_ok(status, signature_name);

  for (int i = 0; i < signature.num_outputs; i++) check_output(&signature.outputs[i], output_tensors[i]);
  if (mkdir(out_dir, 0777) && errno != EEXIST) die("%s cannot be made: %s", out_dir, strerror(errno));
  for (int i = 0; i < signature.num_outputs; i++) write_output(out_dir, &signature.outputs[i], output_tensors[i]);

  for (int i = 0; i < signature.num_inputs; i++) {
    TF_DeleteTensor(input_tensors[i]);  // and a string tensor's strings, once no output is the same memory
    free(signature.inputs[i].name);
    free(signature.inputs[i].where);
  }
  for (int i = 0; i < signature.num_outputs; i++) {
    TF_DeleteTensor(output_tensors[i]);
    free(signature.outputs[i].name);
    free(signature.outputs[i].where);
  }
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteBuffer(meta_graph);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}

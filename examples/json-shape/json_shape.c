// A module in C: values of a directory have to have the shape that `.shape` in it says.
//
// The operator grants it a prefix. Any client puts a shape under `<directory>/.shape`; from then on a put of any other
// key in that directory, or below it where no nearer one has a shape of its own, is refused unless its value has it.
// It serves `admit`, and nothing else: what `module.h` says is generated from the contract, wit/module/module.wit.

#include "module.h"
#include "shape.h"

#include <stdlib.h>
#include <string.h>

static const char SETTING[] = ".shape";

// gRPC's codes.
enum { INVALID_ARGUMENT = 3, UNIMPLEMENTED = 12 };

void exports_module_describe(module_description_t *ret) {
  module_string_dup(&ret->name, "json-shape");
  module_string_dup(&ret->version, "0.1.0");
  ret->serves = MODULE_SERVED_ADMIT;
}

static text text_of(module_list_u8_t list) { return (text){list.ptr, list.len}; }

// How much of a key is its directory, the slash included; 0 if it is in none.
static size_t directory(const uint8_t *key, size_t length) {
  while (length > 0 && key[length - 1] != '/') {
    length--;
  }
  return length;
}

static bool is_setting(text key) {
  size_t begin = directory(key.ptr, key.len), length = strlen(SETTING);
  return begin > 0 && key.len - begin == length && memcmp(key.ptr + begin, SETTING, length) == 0;
}

// The shape of the nearest directory that has one.
static bool nearest_shape(text key, text *shape) {
  uint8_t *name = malloc(key.len + strlen(SETTING));
  if (name == NULL) {
    abort();
  }
  memcpy(name, key.ptr, key.len);
  for (size_t length = directory(key.ptr, key.len); length > 0;
       length = directory(key.ptr, length - 1)) {
    memcpy(name + length, SETTING, strlen(SETTING));
    module_list_u8_t asked = {name, length + strlen(SETTING)};
    instar_module_kv_option_key_value_t found;
    instar_module_kv_refusal_t refusal;
    if (!instar_module_kv_get(&asked, &found, &refusal)) {
      // It is above what the module was granted.
      return false;
    }
    if (found.is_some) {
      *shape = text_of(found.val.value);
      return true;
    }
    memcpy(name, key.ptr, key.len);
  }
  return false;
}

static bool is_admitted(const module_put_operation_t *put, sentence *why) {
  text key = text_of(put->key), value = text_of(put->value), shape;
  quote(why, key);
  say(why, ": ");
  if (is_setting(key)) {
    return is_shape(value, why);
  }
  return !nearest_shape(key, &shape) || has_shape(value, shape, why);
}

bool exports_module_admit(module_list_operation_t *operations, module_moment_t *moment,
                          module_rejection_t *err) {
  (void)moment;
  for (size_t at = 0; at < operations->len; at++) {
    const module_operation_t *operation = &operations->ptr[at];
    sentence why = {.len = 0};
    if (operation->tag == MODULE_OPERATION_PUT && !is_admitted(&operation->val.put, &why)) {
      err->code = INVALID_ARGUMENT;
      module_string_dup_n(&err->message, why.text, why.len);
      return false;
    }
  }
  return true;
}

// Never called: `describe` does not say that it serves them. The contract has them all the same.
bool exports_module_call(module_string_t *procedure, module_list_u8_t *argument,
                         module_moment_t *moment, module_list_u8_t *ret, module_rejection_t *err) {
  (void)procedure, (void)argument, (void)moment, (void)ret;
  err->code = UNIMPLEMENTED;
  module_string_dup(&err->message, "there is no procedure to call");
  return false;
}

void exports_module_react(module_list_event_t *events, module_moment_t *moment) {
  (void)events, (void)moment;
}

// What values of a directory have to look like. It knows nothing of modules, so that it can be tested on its own.
//
// A shape is a JSON object that names fields and their types: {"host": "string", "port": "integer", "tls": "boolean?"}.
// A value has that shape if it is an object that has these fields and no others; one whose type ends in `?` may be
// missing. The types are `string`, `number`, `integer`, `boolean`, `array`, `object` and `any`.

#ifndef SHAPE_H
#define SHAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  const uint8_t *ptr;
  size_t len;
} text;

// A sentence of printable ASCII, whatever was read; cut where it gets too long.
typedef struct {
  size_t len;
  char text[256];
} sentence;

// Adds the text up to its zero byte.
void say(sentence *to, const char *words);
// Adds bytes of the client's.
void quote(sentence *to, text bytes);

// Whether `shape` is a shape; if not, `why` says why.
bool is_shape(text shape, sentence *why);
// Whether `value` has the shape, which is one; if not, `why` says why.
bool has_shape(text value, text shape, sentence *why);

#endif

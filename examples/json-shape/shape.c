#include "shape.h"

#include <string.h>

#define MOST_FIELDS 64
#define MOST_DEPTH 64

typedef enum { INVALID, NOTHING, BOOLEAN, INTEGER, NUMBER, STRING, ARRAY, OBJECT } kind;

typedef struct {
  const uint8_t *at;
  const uint8_t *end;
} reader;

// A name and the type that its value is to have.
typedef struct {
  text name;
  text type;
  bool optional;
} field;

typedef struct {
  size_t count;
  field fields[MOST_FIELDS];
} fields;

static const char *const TYPES[] = {"string", "number", "integer", "boolean", "array", "object", "any"};

void say(sentence *to, const char *words) {
  quote(to, (text){(const uint8_t *)words, strlen(words)});
}

void quote(sentence *to, text bytes) {
  for (size_t at = 0; at < bytes.len && to->len < sizeof to->text; at++) {
    uint8_t byte = bytes.ptr[at];
    to->text[to->len++] = byte >= ' ' && byte <= '~' ? (char)byte : '?';
  }
}

static bool refuse(sentence *why, const char *words) {
  say(why, words);
  return false;
}

static bool refuse_field(sentence *why, text name, const char *words) {
  say(why, "the field \"");
  quote(why, name);
  say(why, "\" ");
  return refuse(why, words);
}

static bool is(text left, const char *right) {
  return left.len == strlen(right) && memcmp(left.ptr, right, left.len) == 0;
}

static bool same(text left, text right) {
  return left.len == right.len && memcmp(left.ptr, right.ptr, left.len) == 0;
}

static void skip_space(reader *from) {
  while (from->at < from->end &&
         (*from->at == ' ' || *from->at == '\t' || *from->at == '\n' || *from->at == '\r')) {
    from->at++;
  }
}

static bool take(reader *from, uint8_t byte) {
  if (from->at == from->end || *from->at != byte) {
    return false;
  }
  from->at++;
  return true;
}

static bool take_word(reader *from, const char *word) {
  size_t length = strlen(word);
  if ((size_t)(from->end - from->at) < length || memcmp(from->at, word, length) != 0) {
    return false;
  }
  from->at += length;
  return true;
}

static bool is_hexadecimal(uint8_t byte) {
  return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F');
}

// A string, whose text is what stands between its quotes, escapes and all.
static bool take_string(reader *from, text *string) {
  if (!take(from, '"')) {
    return false;
  }
  string->ptr = from->at;
  while (from->at < from->end) {
    uint8_t byte = *from->at++;
    if (byte == '"') {
      string->len = (size_t)(from->at - string->ptr) - 1;
      return true;
    }
    if (byte < ' ') {
      return false;
    }
    if (byte != '\\') {
      continue;
    }
    if (take(from, 'u')) {
      for (int digit = 0; digit < 4; digit++) {
        if (from->at == from->end || !is_hexadecimal(*from->at++)) {
          return false;
        }
      }
    } else if (from->at == from->end || memchr("\"\\/bfnrt", *from->at++, 8) == NULL) {
      return false;
    }
  }
  return false;
}

static bool take_digits(reader *from) {
  const uint8_t *start = from->at;
  while (from->at < from->end && *from->at >= '0' && *from->at <= '9') {
    from->at++;
  }
  return from->at > start;
}

static kind take_number(reader *from) {
  take(from, '-');
  if (!take(from, '0') && !take_digits(from)) {
    return INVALID;
  }
  kind found = INTEGER;
  if (take(from, '.')) {
    found = NUMBER;
    if (!take_digits(from)) {
      return INVALID;
    }
  }
  if (take(from, 'e') || take(from, 'E')) {
    found = NUMBER;
    if (!take(from, '+')) {
      take(from, '-');
    }
    if (!take_digits(from)) {
      return INVALID;
    }
  }
  return found;
}

static kind take_value(reader *from, unsigned depth);

// The name of the next field of an object, and the colon behind it.
static bool take_name(reader *from, text *name) {
  skip_space(from);
  if (!take_string(from, name)) {
    return false;
  }
  skip_space(from);
  return take(from, ':');
}

static kind take_members(reader *from, kind of, uint8_t close, unsigned depth) {
  skip_space(from);
  if (take(from, close)) {
    return of;
  }
  do {
    text name;
    if (of == OBJECT && !take_name(from, &name)) {
      return INVALID;
    }
    if (take_value(from, depth + 1) == INVALID) {
      return INVALID;
    }
    skip_space(from);
  } while (take(from, ','));
  return take(from, close) ? of : INVALID;
}

// Any value. It goes as deep as MOST_DEPTH, and no deeper: the stack is small.
static kind take_value(reader *from, unsigned depth) {
  if (depth > MOST_DEPTH) {
    return INVALID;
  }
  skip_space(from);
  if (from->at == from->end) {
    return INVALID;
  }
  text string;
  switch (*from->at) {
  case '"':
    return take_string(from, &string) ? STRING : INVALID;
  case '{':
    from->at++;
    return take_members(from, OBJECT, '}', depth);
  case '[':
    from->at++;
    return take_members(from, ARRAY, ']', depth);
  case 't':
    return take_word(from, "true") ? BOOLEAN : INVALID;
  case 'f':
    return take_word(from, "false") ? BOOLEAN : INVALID;
  case 'n':
    return take_word(from, "null") ? NOTHING : INVALID;
  default:
    return take_number(from);
  }
}

// Whether it is one valid object, and nothing else; if so, a reader of its fields.
static bool open_object(text json, reader *inside, sentence *why) {
  reader whole = {json.ptr, json.ptr + json.len};
  kind found = take_value(&whole, 0);
  skip_space(&whole);
  if (found == INVALID || whole.at != whole.end) {
    return refuse(why, "it is no valid JSON");
  }
  if (found != OBJECT) {
    return refuse(why, "it is no JSON object");
  }
  *inside = (reader){json.ptr, json.ptr + json.len};
  skip_space(inside);
  take(inside, '{');
  return true;
}

// The next field of an object that is known to be valid; where it begins, its value is to be taken.
static bool next_field(reader *from, text *name) {
  skip_space(from);
  take(from, ',');
  return take_name(from, name);
}

static bool is_type(text type) {
  for (size_t at = 0; at < sizeof TYPES / sizeof *TYPES; at++) {
    if (is(type, TYPES[at])) {
      return true;
    }
  }
  return false;
}

static field *find(fields *among, text name) {
  for (size_t at = 0; at < among->count; at++) {
    if (same(among->fields[at].name, name)) {
      return &among->fields[at];
    }
  }
  return NULL;
}

static bool read_shape(text shape, fields *into, sentence *why) {
  reader from;
  if (!open_object(shape, &from, why)) {
    return false;
  }
  into->count = 0;
  text name, type;
  while (next_field(&from, &name)) {
    skip_space(&from);
    if (!take_string(&from, &type)) {
      return refuse_field(why, name, "has no type");
    }
    bool optional = type.len > 0 && type.ptr[type.len - 1] == '?';
    type.len -= optional;
    if (!is_type(type)) {
      return refuse_field(why, name, "has a type that is not known");
    }
    if (memchr(name.ptr, '\\', name.len) != NULL) {
      return refuse_field(why, name, "is written with an escape");
    }
    if (find(into, name) != NULL) {
      return refuse_field(why, name, "is there twice");
    }
    if (into->count == MOST_FIELDS) {
      return refuse(why, "it has more than 64 fields");
    }
    into->fields[into->count++] = (field){name, type, optional};
  }
  return true;
}

bool is_shape(text shape, sentence *why) {
  fields ignored;
  return read_shape(shape, &ignored, why);
}

static bool has_type(kind found, text type) {
  switch (found) {
  case STRING:
    return is(type, "string") || is(type, "any");
  case INTEGER:
    return is(type, "integer") || is(type, "number") || is(type, "any");
  case NUMBER:
    return is(type, "number") || is(type, "any");
  case BOOLEAN:
    return is(type, "boolean") || is(type, "any");
  case ARRAY:
    return is(type, "array") || is(type, "any");
  case OBJECT:
    return is(type, "object") || is(type, "any");
  default:
    return is(type, "any");
  }
}

bool has_shape(text value, text shape, sentence *why) {
  fields wanted;
  reader from;
  if (!read_shape(shape, &wanted, why) || !open_object(value, &from, why)) {
    return false;
  }
  bool seen[MOST_FIELDS] = {false};
  text name;
  while (next_field(&from, &name)) {
    field *want = find(&wanted, name);
    if (want == NULL) {
      return refuse_field(why, name, "is not one that it may have");
    }
    if (seen[want - wanted.fields]) {
      return refuse_field(why, name, "is there twice");
    }
    seen[want - wanted.fields] = true;
    if (!has_type(take_value(&from, 0), want->type)) {
      refuse_field(why, name, "has to be of the type ");
      quote(why, want->type);
      return false;
    }
  }
  for (size_t at = 0; at < wanted.count; at++) {
    if (!seen[at] && !wanted.fields[at].optional) {
      return refuse_field(why, wanted.fields[at].name, "is missing");
    }
  }
  return true;
}

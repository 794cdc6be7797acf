// The tests of shape.c, on the machine that they are built on: `instarctl module test` runs them.

#include "shape.c"

#include <stdio.h>

static const char SHAPE[] =
    "{\"host\": \"string\", \"port\":\"integer\",\"weight\":\"number?\", \"tags\":\"array?\", \"x\":\"any?\"}";

static int failures = 0;

static text of(const char *words) { return (text){(const uint8_t *)words, strlen(words)}; }

static void expect(const char *what, bool passed, sentence *why, const char *wanted) {
  text said = {(const uint8_t *)why->text, why->len};
  if (passed != (wanted == NULL) || (wanted != NULL && !is(said, wanted))) {
    printf("FAILED: %s: %.*s\n", what, (int)why->len, why->text);
    failures++;
  }
}

// `wanted` is why it is refused; NULL if it is not.
static void value(const char *json, const char *wanted) {
  sentence why = {.len = 0};
  bool passed = has_shape(of(json), of(SHAPE), &why);
  expect(json, passed, &why, wanted);
}

static void shape(const char *json, const char *wanted) {
  sentence why = {.len = 0};
  bool passed = is_shape(of(json), &why);
  expect(json, passed, &why, wanted);
}

static void nested(size_t depth, const char *wanted) {
  static char json[1024];
  size_t length = (size_t)sprintf(json, "{\"host\":\"\",\"port\":1,\"x\":");
  memset(json + length, '[', depth);
  memset(json + length + depth, ']', depth);
  memcpy(json + length + 2 * depth, "}", 2);
  value(json, wanted);
}

int main(void) {
  const char *const no_json = "it is no valid JSON";
  value("{\"host\":\"a\",\"port\":1}", NULL);
  value(" { \"port\" : -1 , \"host\" : \"\\u00e9\\n\" , \"weight\" : 1.5e-3 , \"x\" : null } ", NULL);
  value("{\"host\":\"a\",\"port\":1,\"tags\":[1,{\"a\":[]},true,\"x\"],\"weight\":2}", NULL);
  value("{\"host\":\"a\"}", "the field \"port\" is missing");
  value("{\"host\":\"a\",\"port\":\"1\"}", "the field \"port\" has to be of the type integer");
  value("{\"host\":\"a\",\"port\":1.5}", "the field \"port\" has to be of the type integer");
  value("{\"host\":null,\"port\":1}", "the field \"host\" has to be of the type string");
  value("{\"host\":\"a\",\"port\":1,\"prot\":1}", "the field \"prot\" is not one that it may have");
  value("{\"host\":\"a\",\"port\":1,\"port\":2}", "the field \"port\" is there twice");
  value("[]", "it is no JSON object");
  nested(60, NULL);
  nested(80, no_json);
  const char *const broken[] = {"",        "{",          "{}x",         "{\"a\":}",   "{\"a\":1,}", "{\"a\":01}",
                                "{\"a\":+1}", "{\"a\":1.}", "{\"a\":1e}",  "{\"a\":tru}", "{a:1}",     "{\"a\":\"\\x\"}",
                                "{\"a\":[1,]}", "{\"a\":\"\n\"}", "{\"a\":\"\\u12\"}", "{\"a\" 1}", "nul"};
  for (size_t at = 0; at < sizeof broken / sizeof *broken; at++) {
    value(broken[at], no_json);
  }
  shape(SHAPE, NULL);
  shape("{}", NULL);
  shape("{\"a\":\"text\"}", "the field \"a\" has a type that is not known");
  shape("{\"a\":1}", "the field \"a\" has no type");
  shape("{\"a\":\"any\",\"a\":\"any\"}", "the field \"a\" is there twice");
  shape("{\"\\u0061\":\"any\"}", "the field \"\\u0061\" is written with an escape");
  shape("7", "it is no JSON object");
  printf("%d failed\n", failures);
  return failures == 0 ? 0 : 1;
}

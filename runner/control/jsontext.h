/*
 * jsontext.h - text of uncertain origin as a JSON string.
 *
 * json_string() and json_pack() refuse what is not UTF-8, and then a whole object is NULL. A
 * guest's words, a path, a message cut short may be just that; none of them may cost the answer
 * they are in.
 */
#ifndef RUNNER_CONTROL_JSONTEXT_H
#define RUNNER_CONTROL_JSONTEXT_H

#include <jansson.h>

/*
 * A new string. Control characters become '?', so do all bytes above 0x7f unless `s` is UTF-8 as a
 * whole. NULL only without memory.
 */
json_t *json_text(const char *s);

#endif

// Turns a row of doubles into a rule: each is rounded once, in the order of the rule's members.
#pragma once

#include "config.h"

namespace popgrad::POPGRAD_TARGET {

template <class T, int count>
struct Values {
  T value[count];
};

template <class Rule, class T>
POPGRAD_HD Rule rule_from(const double* fields) {
  if constexpr (__is_empty(Rule)) {
    return Rule{};
  } else {
    constexpr int count = sizeof(Rule) / sizeof(T);
    Values<T, count> values;
    for (int k = 0; k < count; ++k) values.value[k] = T(fields[k]);
    return __builtin_bit_cast(Rule, values);
  }
}

constexpr int words(const char* text) {
  int count = *text != 0;
  for (; *text; ++text) count += *text == ' ';
  return count;
}

// Every word of `fields` is one member of type T.
template <class Rule, class T>
constexpr bool fields_match = __is_empty(Rule) ? words(Rule::fields) == 0
                                               : sizeof(Rule) == words(Rule::fields) * sizeof(T);

}  // namespace popgrad::POPGRAD_TARGET

// Turns a row of doubles into a rule and back: each is rounded once, in the order of the rule's members.
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

template <class T, class Rule>
POPGRAD_HD void fields_from(const Rule& rule, double* fields) {
  constexpr int count = sizeof(Rule) / sizeof(T);
  const auto values = __builtin_bit_cast(Values<T, count>, rule);
  for (int k = 0; k < count; ++k) fields[k] = double(values.value[k]);
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

// What a rule says of itself, or need not say.
template <class Rule>
POPGRAD_HD constexpr int sums_of() {
  if constexpr (requires { Rule::sums; })
    return Rule::sums;
  else
    return 0;
}
template <class Rule>
POPGRAD_HD constexpr int kept_of() {
  if constexpr (requires { Rule::kept; })
    return Rule::kept;
  else
    return 0;
}
template <class Rule>
POPGRAD_HD constexpr int positive_of() {
  if constexpr (requires { Rule::positive; })
    return Rule::positive;
  else
    return -1;
}
template <class Rule>
POPGRAD_HD constexpr int fades_of() {
  if constexpr (requires { Rule::fades; })
    return Rule::fades;
  else
    return 0;
}
template <class Rule>
constexpr bool whole_of = requires {
  Rule::whole;
};
template <class Rule>
constexpr int slots_of = Rule::states > 0 ? Rule::states : 1;

}  // namespace popgrad::POPGRAD_TARGET

# SPDX-License-Identifier: Apache-2.0
# FILE must not compile, and the compiler must print the sentence that its first line, `// expect: ...`, promises.
file(READ ${FILE} text)
if(NOT text MATCHES "^// expect: ([^\n]+)\n")
  message(FATAL_ERROR "${FILE} does not begin with // expect: a sentence")
endif()
set(sentence "${CMAKE_MATCH_1}")
execute_process(COMMAND ${CXX} -std=c++20 -fsyntax-only -I${INCLUDE} ${FILE}
                RESULT_VARIABLE result OUTPUT_VARIABLE said ERROR_VARIABLE said)
if(result EQUAL 0)
  message(FATAL_ERROR "${FILE} compiles")
endif()
string(FIND "${said}" "${sentence}" at)
if(at EQUAL -1)
  message(FATAL_ERROR "expected: ${sentence}\nthe compiler says:\n${said}")
endif()

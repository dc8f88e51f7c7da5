// Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:3baf2d710345

#pragma once

/// A call of the microscope's recorder, in a build for the microscope; nothing in every other build.
#ifdef MINISGL_MICROSCOPE
#include <recorder.h>
#define MINISGL_OBSERVE(call) ::minisgl::microscope::call
#else
#define MINISGL_OBSERVE(call) static_cast<void>(0)
#endif

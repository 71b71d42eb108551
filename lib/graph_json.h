/* SPDX-License-Identifier: Apache-2.0
 *
 * A finished graph as JSON text and back (docs/file-format.md, "Graphs"). Reading appends layer by layer through
 * mmebm__graph_append, as the builder does: a text either makes a graph that a user could have built, with the same
 * tensors in the same order, or fails. Used by model_file.c.
 */
#ifndef MMEBM_GRAPH_JSON_H
#define MMEBM_GRAPH_JSON_H

#include "json.h"
#include "network.h"

/* Adds one object. Graphs with losses (posterior graphs) are not stored: MMEBM_E_UNSUPPORTED. */
void mmebm__graph_write(mmebm_text *text, const mmebm_graph *graph);

/* what names the text in sentences. *graph is zeroed first; on failure nothing is left in it. */
mmebm_status mmebm__graph_read(mmebm_context *context, const char *what, const char *text, mmebm_graph *graph);

/* Makes MMEBM_E_FORMAT of a status that says that the content of a file was refused (a shape, an option, a name) and
 * puts `what` before its sentence; others, such as MMEBM_E_MEMORY, stay. */
mmebm_status mmebm__refused_content(mmebm_context *context, const char *what, mmebm_status status);

#endif /* MMEBM_GRAPH_JSON_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * Views: making them, every way in which one can be wrong, the sentence that says so, arrays of larger views of a newer
 * header, copies by rows.
 */
#include "api_support.h"
#include "view.h"

enum { ROWS = 3, ROW = 4 };

/* ---- making */

TEST(view_init_fills_every_member)
{
    float values[ROWS * ROW];
    const int64_t shape[2] = {ROWS, ROW};
    mmebm_view view;
    memset(&view, 0x5a, sizeof view);
    REQUIRE(mmebm_view_init(&view, values, 2, shape) == MMEBM_OK);
    CHECK(view.struct_size == sizeof view && view.dtype == MMEBM_F32 && view.place == MMEBM_HOST);
    CHECK(view.data == values && view.rank == 2 && view.device_id == 0 && view.reserved0 == 0);
    CHECK(view.shape[0] == ROWS && view.shape[1] == ROW && view.shape[2] == 0 && view.shape[5] == 0);
    CHECK(mmebm_view_init(&view, values, 0, NULL) == MMEBM_OK && view.rank == 0);
    CHECK(mmebm_view_init(&view, NULL, 2, shape) == MMEBM_OK && !view.data);
}

TEST(view_init_refuses_what_is_no_shape)
{
    float values[1];
    const int64_t negative[2] = {2, -1};
    const int64_t longer[MMEBM_MAX_RANK + 1] = {1, 1, 1, 1, 1, 1, 1};
    mmebm_view view;
    memset(&view, 0x5a, sizeof view);
    const mmebm_view before = view;
    CHECK(mmebm_view_init_sized(NULL, sizeof view, values, 1, longer) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_view_init(&view, values, 1, NULL) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_view_init(&view, values, 2, negative) == MMEBM_E_SHAPE);
    CHECK(mmebm_view_init(&view, values, MMEBM_MAX_RANK + 1, longer) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_view_init(&view, values, UINT32_MAX, longer) == MMEBM_E_ARGUMENT);
    CHECK(!memcmp(&view, &before, sizeof view));
    CHECK(mmebm_view_init(&view, values, MMEBM_MAX_RANK, longer) == MMEBM_OK);
}

/* ---- checks */

/* One change to a right view of [3, 4], the status that it must give and a part of the sentence. */
typedef struct wrong_view {
    const char *name;
    void (*spoil)(mmebm_view *view);
    mmebm_status status;
    const char *part;
} wrong_view;

static void spoil_nothing(mmebm_view *view)
{
    (void)view;
}
static void spoil_bf16(mmebm_view *view)
{
    view->dtype = MMEBM_BF16;
}
static void spoil_dtype(mmebm_view *view)
{
    view->dtype = 77;
}
static void spoil_place(mmebm_view *view)
{
    view->place = 9;
}
static void spoil_device_id(mmebm_view *view)
{
    view->device_id = -1;
}
static void spoil_reserved(mmebm_view *view)
{
    view->reserved0 = 1;
}
static void spoil_data(mmebm_view *view)
{
    view->data = NULL;
}
static void spoil_alignment(mmebm_view *view)
{
    view->data = (char *)view->data + 2;
}
static void spoil_size(mmebm_view *view)
{
    view->struct_size = sizeof *view + 4; /* views of an array would not be aligned */
}
static void spoil_rank_less(mmebm_view *view)
{
    view->rank = 1;
}
static void spoil_rank_more(mmebm_view *view)
{
    view->rank = 3;
    view->shape[2] = 1;
}
static void spoil_rank_zero(mmebm_view *view)
{
    view->rank = 0;
}
static void spoil_rank_huge(mmebm_view *view)
{
    view->rank = UINT32_MAX;
}
static void spoil_row(mmebm_view *view)
{
    view->shape[1] = 5;
}
static void spoil_rows_zero(mmebm_view *view)
{
    view->shape[0] = 0;
}
static void spoil_rows_negative(mmebm_view *view)
{
    view->shape[0] = -3;
}
static void spoil_rows_huge(mmebm_view *view)
{
    view->shape[0] = INT64_MAX;
}

static const wrong_view wrong_views[] = {
    {"nothing", spoil_nothing, MMEBM_OK, ""},
    {"bf16", spoil_bf16, MMEBM_E_DTYPE, "dtype 2, wanted MMEBM_F32"},
    {"dtype", spoil_dtype, MMEBM_E_DTYPE, "dtype 77"},
    {"place", spoil_place, MMEBM_E_ARGUMENT, "place 9, wanted MMEBM_HOST or MMEBM_DEVICE"},
    {"device id", spoil_device_id, MMEBM_E_ARGUMENT, "device_id -1, wanted 0"},
    {"reserved", spoil_reserved, MMEBM_E_UNKNOWN_OPTION, "reserved0 1"},
    {"data", spoil_data, MMEBM_E_ARGUMENT, "no data"},
    {"alignment", spoil_alignment, MMEBM_E_ARGUMENT, "no multiple of 4"},
    {"struct size", spoil_size, MMEBM_E_STRUCT_SIZE, "multiple of 8"},
    {"rank 1", spoil_rank_less, MMEBM_E_SHAPE, "shape [3], wanted [*,4]"},
    {"rank 3", spoil_rank_more, MMEBM_E_SHAPE, "shape [3,4,1], wanted [*,4]"},
    {"rank 0", spoil_rank_zero, MMEBM_E_SHAPE, "shape [], wanted [*,4]"},
    {"huge rank", spoil_rank_huge, MMEBM_E_SHAPE, "rank 4294967295"},
    {"row", spoil_row, MMEBM_E_SHAPE, "shape [3,5], wanted [*,4]"},
    {"no rows", spoil_rows_zero, MMEBM_E_SHAPE, "shape [0,4], wanted [*,4] with at least one tuple"},
    {"negative rows", spoil_rows_negative, MMEBM_E_SHAPE, "shape [-3,4]"},
    {"huge rows", spoil_rows_huge, MMEBM_E_SHAPE, "more than memory can hold"},
};

TEST(every_wrong_view_gets_its_status_and_sentence)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    float values[ROWS * ROW + 1] = {0};
    const int64_t shape[2] = {ROWS, ROW};
    for (size_t i = 0; i < sizeof wrong_views / sizeof wrong_views[0]; ++i) {
        const wrong_view *of = &wrong_views[i];
        mmebm_view view[2]; /* room for a larger struct_size */
        memset(view, 0, sizeof view);
        CHECK(mmebm_view_init(view, values, 2, shape) == MMEBM_OK);
        of->spoil(view);
        int64_t n = 0;
        mmebm__clear_error(context);
        const mmebm_status status = mmebm__view_check(context, "test: view 7", view, 1, shape + 1, &n);
        const char *sentence = mmebm_last_error(context);
        CHECK_MSG(status == of->status, "%s: %s, %s", of->name, mmebm_status_name(status), sentence);
        CHECK_MSG(strstr(sentence, of->part), "%s: '%s' lacks '%s'", of->name, sentence, of->part);
        CHECK(n == (status == MMEBM_OK ? ROWS : 0));
        CHECK(status == MMEBM_OK || !strncmp(sentence, "test: view 7 ", 13));
    }
    int64_t n = 2;
    mmebm_view view;
    CHECK(mmebm_view_init(&view, values, 2, shape) == MMEBM_OK);
    CHECK(mmebm__view_check(context, "v", &view, 1, shape + 1, &n) == MMEBM_E_SHAPE && n == 2);
    CHECK(!strcmp(mmebm_last_error(context), "v has shape [3,4], wanted [2,4]"));
    CHECK(mmebm__view_check(context, "v", NULL, 1, shape + 1, &n) == MMEBM_E_ARGUMENT);
    mmebm_context_destroy(&context);
}

TEST(shapes_as_text)
{
    char text[128];
    const int64_t shape[6] = {64, 28, 28, 3, 1, 2};
    CHECK(!strcmp(mmebm__shape_text(text, 0, 4, shape), "[64,28,28,3]"));
    CHECK(!strcmp(mmebm__shape_text(text, -1, 2, shape), "[*,64,28]"));
    CHECK(!strcmp(mmebm__shape_text(text, 5, 1, shape), "[5,64]"));
    CHECK(!strcmp(mmebm__shape_text(text, 5, 0, shape), "[5]"));
    CHECK(!strcmp(mmebm__shape_text(text, 0, 0, shape), "[]"));
    const int64_t longest[6] = {INT64_MIN, INT64_MIN, INT64_MIN, INT64_MIN, INT64_MIN, INT64_MIN};
    memset(text, '#', sizeof text);
    mmebm__shape_text(text, INT64_MAX, 6, longest);
    const char *end = memchr(text, '\0', sizeof text);
    CHECK(end && end > text && end[-1] == ']');
}

/* ---- arrays and rows */

/* A view as a later header may have it. */
typedef struct newer_view {
    mmebm_view view;
    uint64_t added[3];
} newer_view;

TEST(arrays_of_newer_views_are_walked_by_their_size)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_model *model = small_model(context);
    small_data data;
    CHECK(small_data_init(&data, ROWS) == MMEBM_OK);
    newer_view newer[SMALL_MODALITIES];
    memset(newer, 0, sizeof newer);
    for (int i = 0; i < SMALL_MODALITIES; ++i) {
        newer[i].view = data.x[i];
        newer[i].view.struct_size = sizeof newer[i];
        CHECK(mmebm__view_at(&newer[0].view, (uint32_t)i) == &newer[i].view);
    }
    if (model) {
        float plain[ROWS];
        CHECK(mmebm_energy(model, data.x, &data.energy) == MMEBM_OK);
        memcpy(plain, data.energy_values, sizeof plain);
        memset(data.energy_values, 0, sizeof data.energy_values);
        CHECK(mmebm_energy(model, &newer[0].view, &data.energy) == MMEBM_OK);
        CHECK(!memcmp(plain, data.energy_values, sizeof plain));
        newer[1].added[2] = 1;
        CHECK(mmebm_energy(model, &newer[0].view, &data.energy) == MMEBM_E_UNKNOWN_OPTION);
    }
    CHECK(model && !mmebm__view_at(NULL, 1));
    mmebm_model_destroy(&model);
    mmebm_context_destroy(&context);
}

TEST(rows_are_copied_both_ways)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    float values[ROWS * ROW], back[ROWS * ROW];
    fill_numbers(values, ROWS * ROW, 3);
    memset(back, 0, sizeof back);
    const int64_t shape[2] = {ROWS, ROW};
    mmebm_view from, to;
    float *device = NULL;
    CHECK(mmebm_view_init(&from, values, 2, shape) == MMEBM_OK && mmebm_view_init(&to, back, 2, shape) == MMEBM_OK);
    CHECK(mmebm__view_row_count(&from) == ROW);
    REQUIRE(mmebm__device_floats(context, (ROWS - 1) * ROW, &device) == MMEBM_OK);
    CHECK(mmebm__view_upload(context, &from, 1, ROWS - 1, device) == MMEBM_OK);
    CHECK(mmebm__view_download(context, &to, 0, ROWS - 1, device) == MMEBM_OK);
    CHECK(!memcmp(back, values + ROW, (ROWS - 1) * ROW * sizeof(float)));
    CHECK(back[(ROWS - 1) * ROW] == 0.0f);
    mmebm__device_free(context, device, (ROWS - 1) * ROW);
    mmebm_context_destroy(&context);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(view_init_fills_every_member);
    RUN(view_init_refuses_what_is_no_shape);
    RUN(every_wrong_view_gets_its_status_and_sentence);
    RUN(shapes_as_text);
    RUN(arrays_of_newer_views_are_walked_by_their_size);
    RUN(rows_are_copied_both_ways);
    return HARNESS_RESULT();
}

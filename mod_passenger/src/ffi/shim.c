/*
 * The part of httpd's and APR's API that exists only as macros and inline functions, as functions.
 * No logic lives here: one line each, so that Rust and C can never disagree about a ring or a type.
 */
#include "wrapper.h"

#include <stddef.h>

/* What the Rust side takes for granted about these types. */
_Static_assert(sizeof(apr_status_t) == sizeof(int), "apr_status_t must be a C int");
_Static_assert(sizeof(apr_time_t) == 8, "apr_time_t must have 64 bits");
_Static_assert(sizeof(apr_size_t) == sizeof(void *), "apr_size_t must be a machine word");
_Static_assert(sizeof(void (*)(void)) == sizeof(void *), "function pointers must be machine words");
_Static_assert(MODULE_MAGIC_NUMBER_MAJOR == 20120211, "these sources are for httpd 2.4");
_Static_assert(offsetof(request_rec, pool) == 0, "request_rec must begin with its pool");
_Static_assert(offsetof(conn_rec, pool) == 0, "conn_rec must begin with its pool");
_Static_assert(OK == 0 && DECLINED == -1, "return values of hooks");

/* --- the ring of a brigade ------------------------------------------------------------------ */

void psgr_brigade_init(apr_bucket_brigade *bb, apr_pool_t *pool, apr_bucket_alloc_t *allocator)
{
    bb->p = pool;
    bb->bucket_alloc = allocator;
    APR_RING_INIT(&bb->list, apr_bucket, link);
}

apr_bucket *psgr_brigade_first(apr_bucket_brigade *bb)
{
    return APR_BRIGADE_FIRST(bb);
}

apr_bucket *psgr_brigade_last(apr_bucket_brigade *bb)
{
    return APR_BRIGADE_LAST(bb);
}

apr_bucket *psgr_brigade_sentinel(apr_bucket_brigade *bb)
{
    return APR_BRIGADE_SENTINEL(bb);
}

int psgr_brigade_is_empty(apr_bucket_brigade *bb)
{
    return APR_BRIGADE_EMPTY(bb);
}

void psgr_brigade_insert_head(apr_bucket_brigade *bb, apr_bucket *e)
{
    APR_BRIGADE_INSERT_HEAD(bb, e);
}

void psgr_brigade_insert_tail(apr_bucket_brigade *bb, apr_bucket *e)
{
    APR_BRIGADE_INSERT_TAIL(bb, e);
}

void psgr_brigade_concat(apr_bucket_brigade *to, apr_bucket_brigade *from)
{
    APR_BRIGADE_CONCAT(to, from);
}

void psgr_brigade_prepend(apr_bucket_brigade *to, apr_bucket_brigade *from)
{
    APR_BRIGADE_PREPEND(to, from);
}

apr_bucket *psgr_bucket_next(apr_bucket *e)
{
    return APR_BUCKET_NEXT(e);
}

apr_bucket *psgr_bucket_prev(apr_bucket *e)
{
    return APR_BUCKET_PREV(e);
}

void psgr_bucket_insert_before(apr_bucket *at, apr_bucket *e)
{
    APR_BUCKET_INSERT_BEFORE(at, e);
}

void psgr_bucket_insert_after(apr_bucket *at, apr_bucket *e)
{
    APR_BUCKET_INSERT_AFTER(at, e);
}

void psgr_bucket_remove(apr_bucket *e)
{
    APR_BUCKET_REMOVE(e);
}

void psgr_bucket_delete(apr_bucket *e)
{
    apr_bucket_delete(e);
}

void psgr_bucket_destroy(apr_bucket *e)
{
    apr_bucket_destroy(e);
}

apr_status_t psgr_bucket_read(apr_bucket *e, const char **data, apr_size_t *len,
                              apr_read_type_e block)
{
    return apr_bucket_read(e, data, len, block);
}

apr_status_t psgr_bucket_split(apr_bucket *e, apr_size_t point)
{
    return apr_bucket_split(e, point);
}

apr_status_t psgr_bucket_copy(apr_bucket *e, apr_bucket **copy)
{
    return apr_bucket_copy(e, copy);
}

apr_status_t psgr_bucket_setaside(apr_bucket *e, apr_pool_t *pool)
{
    return apr_bucket_setaside(e, pool);
}

/* --- kinds of buckets ----------------------------------------------------------------------- */

int psgr_bucket_is_metadata(const apr_bucket *e)
{
    return APR_BUCKET_IS_METADATA(e);
}

int psgr_bucket_is_eos(const apr_bucket *e)
{
    return APR_BUCKET_IS_EOS(e);
}

int psgr_bucket_is_flush(const apr_bucket *e)
{
    return APR_BUCKET_IS_FLUSH(e);
}

int psgr_bucket_is_error(const apr_bucket *e)
{
    return AP_BUCKET_IS_ERROR(e);
}

int psgr_bucket_is_eor(const apr_bucket *e)
{
    return AP_BUCKET_IS_EOR(e);
}

int psgr_bucket_is_eoc(const apr_bucket *e)
{
    return AP_BUCKET_IS_EOC(e);
}

int psgr_bucket_is_file(const apr_bucket *e)
{
    return APR_BUCKET_IS_FILE(e);
}

int psgr_bucket_is_heap(const apr_bucket *e)
{
    return APR_BUCKET_IS_HEAP(e);
}

int psgr_bucket_error_status(const apr_bucket *e)
{
    return ((const ap_bucket_error *)e->data)->status;
}

/* --- APR_STATUS_IS_* ------------------------------------------------------------------------ */

#define STATUS_TEST(name, MACRO)                                                                   \
    int psgr_status_is_##name(apr_status_t status)                                                 \
    {                                                                                              \
        return MACRO(status);                                                                      \
    }

STATUS_TEST(eof, APR_STATUS_IS_EOF)
STATUS_TEST(eagain, APR_STATUS_IS_EAGAIN)
STATUS_TEST(eintr, APR_STATUS_IS_EINTR)
STATUS_TEST(timeup, APR_STATUS_IS_TIMEUP)
STATUS_TEST(enoent, APR_STATUS_IS_ENOENT)
STATUS_TEST(enotdir, APR_STATUS_IS_ENOTDIR)
STATUS_TEST(enametoolong, APR_STATUS_IS_ENAMETOOLONG)
STATUS_TEST(enospc, APR_STATUS_IS_ENOSPC)
STATUS_TEST(epipe, APR_STATUS_IS_EPIPE)
STATUS_TEST(econnreset, APR_STATUS_IS_ECONNRESET)
STATUS_TEST(econnaborted, APR_STATUS_IS_ECONNABORTED)

/* --- fields and macros that have no symbol -------------------------------------------------- */

int psgr_conn_has_pending_output(const conn_rec *c)
{
    return c->data_in_output_filters != 0;
}

int psgr_run_core_connection(conn_rec *c)
{
    const apr_array_header_t *hooks = ap_hook_get_process_connection();
    const ap_LINK_process_connection_t *hook = (const ap_LINK_process_connection_t *)hooks->elts;
    for (int i = 0; i < hooks->nelts; i++) {
        if (hook[i].szName && strcmp(hook[i].szName, "http_core.c") == 0)
            return hook[i].pFunc(c);
    }
    return DECLINED;
}

void *psgr_module_config(const ap_conf_vector_t *vector, const module *m)
{
    return ap_get_module_config(vector, m);
}

core_dir_config *psgr_core_dir_config(const request_rec *r)
{
    return ap_get_core_module_config(r->per_dir_config);
}

/* --- the compiler's view of the layouts that Rust reads ------------------------------------- */

#define SIZE(type) { #type, sizeof(type) }
#define FIELD(type, field) { #type "." #field, offsetof(type, field) }

const psgr_layout_entry psgr_layout[] = {
    SIZE(request_rec),
    FIELD(request_rec, connection),
    FIELD(request_rec, server),
    FIELD(request_rec, prev),
    FIELD(request_rec, main),
    FIELD(request_rec, status_line),
    FIELD(request_rec, status),
    FIELD(request_rec, headers_in),
    FIELD(request_rec, headers_out),
    FIELD(request_rec, subprocess_env),
    FIELD(request_rec, notes),
    FIELD(request_rec, handler),
    FIELD(request_rec, unparsed_uri),
    FIELD(request_rec, uri),
    FIELD(request_rec, filename),
    FIELD(request_rec, finfo),
    FIELD(request_rec, per_dir_config),
    FIELD(request_rec, output_filters),
    SIZE(conn_rec),
    FIELD(conn_rec, base_server),
    FIELD(conn_rec, bucket_alloc),
    FIELD(conn_rec, cs),
    FIELD(conn_rec, master),
    SIZE(server_rec),
    FIELD(server_rec, next),
    FIELD(server_rec, error_fname),
    FIELD(server_rec, error_log),
    FIELD(server_rec, module_config),
    FIELD(server_rec, lookup_defaults),
    FIELD(server_rec, server_hostname),
    SIZE(module),
    FIELD(module, module_index),
    FIELD(module, register_hooks),
    SIZE(command_rec),
    SIZE(cmd_parms),
    FIELD(cmd_parms, directive),
    FIELD(cmd_parms, pool),
    FIELD(cmd_parms, server),
    FIELD(cmd_parms, path),
    SIZE(core_dir_config),
    FIELD(core_dir_config, handler),
    FIELD(core_dir_config, expr_handler),
    SIZE(apr_finfo_t),
    FIELD(apr_finfo_t, filetype),
    SIZE(apr_bucket),
    FIELD(apr_bucket, length),
    SIZE(ap_directive_t),
    FIELD(ap_directive_t, line_num),
    { NULL, 0 },
};

/*
 * What Rust sees of httpd and APR (bindgen reads this file), and the declarations of our own shim:
 * the operations that httpd offers only as macros or inline functions.
 */
#ifndef PASSENGER_WRAPPER_H
#define PASSENGER_WRAPPER_H

#define CORE_PRIVATE

#include "httpd.h"
#include "http_config.h"
#include "http_connection.h"
#include "http_core.h"
#include "http_log.h"
#include "http_main.h"
#include "http_protocol.h"
#include "http_request.h"
#include "http_vhost.h"
#include "ap_listen.h"
#include "ap_mpm.h"
#include "ap_release.h"
#include "mpm_common.h"
#include "scoreboard.h"
#include "unixd.h"
#include "util_cfgtree.h"
#include "util_filter.h"
#include "util_script.h"
#include "util_time.h"

#include "apr_buckets.h"
#include "apr_errno.h"
#include "apr_file_io.h"
#include "apr_lib.h"
#include "apr_network_io.h"
#include "apr_optional.h"
#include "apr_pools.h"
#include "apr_portable.h"
#include "apr_strings.h"
#include "apr_tables.h"
#include "apr_thread_proc.h"
#include "apr_time.h"

/* --- the ring of a brigade ------------------------------------------------------------------ */

/* Makes an empty brigade of memory that is not a pool's: apr_brigade_create's is freed with the pool only. */
void psgr_brigade_init(apr_bucket_brigade *bb, apr_pool_t *pool, apr_bucket_alloc_t *allocator);
apr_bucket *psgr_brigade_first(apr_bucket_brigade *bb);
apr_bucket *psgr_brigade_last(apr_bucket_brigade *bb);
apr_bucket *psgr_brigade_sentinel(apr_bucket_brigade *bb);
int psgr_brigade_is_empty(apr_bucket_brigade *bb);
void psgr_brigade_insert_head(apr_bucket_brigade *bb, apr_bucket *e);
void psgr_brigade_insert_tail(apr_bucket_brigade *bb, apr_bucket *e);
/* Moves everything in `from` behind `to`; `from` is empty afterwards. */
void psgr_brigade_concat(apr_bucket_brigade *to, apr_bucket_brigade *from);
void psgr_brigade_prepend(apr_bucket_brigade *to, apr_bucket_brigade *from);

apr_bucket *psgr_bucket_next(apr_bucket *e);
apr_bucket *psgr_bucket_prev(apr_bucket *e);
void psgr_bucket_insert_before(apr_bucket *at, apr_bucket *e);
void psgr_bucket_insert_after(apr_bucket *at, apr_bucket *e);
/* Takes the bucket out of its ring without destroying it. */
void psgr_bucket_remove(apr_bucket *e);
/* Takes the bucket out of its ring and destroys it. */
void psgr_bucket_delete(apr_bucket *e);
/* Destroys a bucket that is in no ring. */
void psgr_bucket_destroy(apr_bucket *e);

apr_status_t psgr_bucket_read(apr_bucket *e, const char **data, apr_size_t *len,
                              apr_read_type_e block);
apr_status_t psgr_bucket_split(apr_bucket *e, apr_size_t point);
apr_status_t psgr_bucket_copy(apr_bucket *e, apr_bucket **copy);
apr_status_t psgr_bucket_setaside(apr_bucket *e, apr_pool_t *pool);

/* --- kinds of buckets ----------------------------------------------------------------------- */

int psgr_bucket_is_metadata(const apr_bucket *e);
int psgr_bucket_is_eos(const apr_bucket *e);
int psgr_bucket_is_flush(const apr_bucket *e);
int psgr_bucket_is_error(const apr_bucket *e);
int psgr_bucket_is_eor(const apr_bucket *e);
int psgr_bucket_is_eoc(const apr_bucket *e);
int psgr_bucket_is_file(const apr_bucket *e);
int psgr_bucket_is_heap(const apr_bucket *e);
/* The status an error bucket carries. Only for buckets of which is_error said yes. */
int psgr_bucket_error_status(const apr_bucket *e);

/* --- APR_STATUS_IS_* ------------------------------------------------------------------------ */

int psgr_status_is_eof(apr_status_t status);
int psgr_status_is_eagain(apr_status_t status);
int psgr_status_is_eintr(apr_status_t status);
int psgr_status_is_timeup(apr_status_t status);
int psgr_status_is_enoent(apr_status_t status);
int psgr_status_is_enotdir(apr_status_t status);
int psgr_status_is_enametoolong(apr_status_t status);
int psgr_status_is_enospc(apr_status_t status);
int psgr_status_is_epipe(apr_status_t status);
int psgr_status_is_econnreset(apr_status_t status);
int psgr_status_is_econnaborted(apr_status_t status);

/* --- fields and macros that have no symbol -------------------------------------------------- */

/* The bit field conn_rec.data_in_output_filters and its siblings. */
int psgr_conn_has_pending_output(const conn_rec *c);
/* The module's own per-directory configuration in a vector of such (ap_get_module_config). */
void *psgr_module_config(const ap_conf_vector_t *vector, const module *m);
/* core_dir_config of a request. */
core_dir_config *psgr_core_dir_config(const request_rec *r);

/* --- hooks of others ------------------------------------------------------------------------ */

/* Runs httpd's own process_connection hook for HTTP/1; DECLINED if there is none. */
int psgr_run_core_connection(conn_rec *c);

/* --- the compiler's view of the layouts that Rust reads ------------------------------------- */

typedef struct {
    const char *name;
    apr_size_t value;
} psgr_layout_entry;

/* Size of each struct and offset of each field that Rust touches; ends with a NULL name. */
extern const psgr_layout_entry psgr_layout[];

#endif

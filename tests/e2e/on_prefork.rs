//! Tests of the contract of HTTP whose servers run under event, once more under prefork: the same code of ours, but
//! no thread beside the request's, no suspended connection, and other limits.

use harness::{under, Mpm};

macro_rules! on_prefork {
    ($($module:ident: $($test:ident),+;)+) => {
        $(mod $module {
            $(#[test]
            fn $test() {
                super::under(super::Mpm::Prefork, crate::$module::$test);
            })+
        })+
    };
}

on_prefork! {
    headers:
        an_incomplete_head_is_a_502,
        a_wrong_content_length_never_desynchronises_a_client,
        trailers_are_dropped_and_the_body_is_whole,
        statuses_and_phrases_are_the_apps,
        hop_by_hop_fields_and_httpds_own_stay_with_us,
        an_apps_headers_choose_neither_handler_nor_redirect,
        several_cookies_stay_several,
        a_line_break_in_an_apps_header_never_reaches_a_client;
    requests:
        empty_bodies_are_told_from_none;
    serve:
        a_static_file_is_served_without_an_app_process,
        a_disabled_location_is_left_to_httpd,
        a_posted_body_comes_back_unchanged,
        a_chunked_upload_comes_back_unchanged,
        many_requests_on_one_connection_do_not_get_mixed_up,
        the_app_sees_the_url_as_the_client_sent_it,
        a_client_that_goes_away_in_the_middle_does_not_disturb_the_next;
    slow:
        a_slow_reader_over_tls_occupies_no_process;
    retry:
        a_get_that_killed_its_process_is_sent_once_more,
        a_get_that_kills_every_process_is_given_up_after_the_second,
        a_post_that_may_have_run_is_never_sent_again,
        a_put_is_sent_again_with_its_body_if_that_was_kept,
        a_request_of_which_a_byte_was_answered_is_never_sent_again;
    sendfile:
        head_has_the_length_and_no_body,
        only_files_of_the_app_and_of_allowed_directories_are_sent;
    mapping:
        a_linked_sub_uri_is_the_linked_app,
        the_longest_base_uri_wins,
        what_an_alias_does_not_have_is_the_hosts_app_to_answer,
        a_base_uri_without_an_app_is_left_to_httpd,
        escaped_paths_reach_the_app_as_they_were_sent,
        encoded_slashes_are_kept_where_asked_for,
        a_file_wins_for_every_method,
        a_protected_page_is_not_given_away_by_the_page_cache,
        htaccess_can_switch_apps_off_and_set_variables,
        an_app_says_the_type_whatever_the_name_looks_like;
    hygiene:
        fields_that_could_be_taken_for_others_do_not_reach_an_app,
        strange_methods_harm_nobody,
        nothing_is_smuggled_to_an_app;
    smuggling:
        folded_fields_and_bare_line_feeds_cannot_make_fields,
        nothing_is_smuggled_where_httpd_is_lenient_either;
    websocket:
        messages_that_come_with_the_handshake_are_not_lost,
        a_refused_upgrade_is_an_ordinary_response;
    websocket_crowd:
        a_socket_that_ignores_the_good_bye_does_not_keep_an_old_worker;
    websocket_refused:
        an_h2_client_is_told_that_there_are_no_sockets_over_h2,
        an_ordinary_request_may_name_websocket_without_getting_one;
    python_sockets:
        either_side_of_an_asgi_socket_may_close,
        an_asgi_socket_is_told_of_a_restart,
        asgi_sockets_work_over_tls,
        a_wsgi_app_may_take_its_connection_and_serve_others_meanwhile,
        a_wsgi_app_that_took_its_connection_writes_http_itself;
    sockets:
        a_client_that_ignores_the_good_bye_does_not_keep_an_old_process;
    tls:
        without_tls_nothing_claims_it;
    languages:
        events_of_rack_arrive_one_by_one,
        events_of_wsgi_arrive_one_by_one,
        events_of_asgi_arrive_one_by_one,
        events_of_node_arrive_one_by_one,
        an_asgi_app_hears_that_the_client_is_gone,
        pipelined_requests_to_a_node_app_are_answered_in_order;
    concurrency:
        a_location_has_a_time_limit_of_its_own,
        a_time_limit_of_one_location_does_not_hold_for_the_rest;
    failures:
        an_exception_at_a_request_is_a_500_and_the_process_stays,
        a_process_that_exits_at_a_request_is_replaced_for_the_next;
}

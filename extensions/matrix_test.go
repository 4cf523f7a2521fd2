package extensions

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A matrixRow is a row of the acceptance matrix, extensions/SPEC.md §21: the
// behaviours that handlers and control planes rely on, by their test names in
// WALinuxAgent. where has the tests for it (with the package and a dot in front,
// if it is not this one); otherwise says how and why this agent differs.
type matrixRow struct{ name, where, otherwise string }

const accept = "TestAcceptance/"

var matrix = []matrixRow{
	// extensions/SPEC.md §21.1 TestExtensionCleanup
	{"cleanup_leaves_installed_extensions", "TestLifecycle", ""},
	{"cleanup_removes_uninstalled_extensions", "TestLifecycle", ""},
	{"cleanup_removes_orphaned_packages", "TestAbsent", "directories without a HandlerState are somebody else's and stay"},
	{"cleanup_leaves_failed_extensions", "TestFailures/install", ""},
	{"report_and_cleanup_only_if_gs_supported", "TestGates/Fact22 required features", ""},
	// TestHandlerStateMigration
	{"migrates / skips_if_empty / cleans_up / does_not_overwrite / ignores_move_errors / ignores_tree_remove_errors", "TestHandlerStateMigration", ""},
	{"set_handler_status_ignores_none_content", "", "there is no null status: Report is a value"},
	// TestExtension_Deprecated
	{"ext_handler", accept + "ext_handler", "the same goal state again and one about others run nothing"},
	{"only_download_extension_manifest_once_per_goal_state", accept + "only_download_extension_manifest_once", "not at all where the version that is asked for is there"},
	{"fail_handler_on_bad_extension_config_and_report_error", "TestInvalidHandler", ""},
	{"process_valid_extensions_if_present", "TestInvalidHandler", ""},
	{"ignore_case_when_parsing_plugin_settings", "protocol/wire.TestExtensionsConfig", ""},
	{"ext_handler_no_settings", accept + "ext_handler_no_settings", ""},
	{"ext_handler_no_public_settings · ext_handler_no_ext", accept + "ext_handler_no_public_settings", ""},
	{"ext_handler_sequencing", "TestSequencing TestUninstallFirst", "what does not wait for each other goes side by side"},
	{"process_sequencing_properly_even_if_no_settings_for_dependent_extension", "TestDependencyWithoutSettings", "its level counts too"},
	{"sequencing_should_fail_if_handler_failed", "TestDependencyFails", ""},
	{"sequencing_default_dependency_level / invalid_dependency_level", "protocol/wire.TestDependencyLevels", ""},
	{"rollingupgrade", accept + "rollingupgrade", ""},
	{"create_extension_events_dir_and_set_handler_environment_only_if_extension_telemetry_enabled", "TestContractOnDisk", "the folder is always there: a handler refuses to be installed without"},
	{"not_delete_extension_events_directory_on_extension_uninstall", accept + "not_delete_events_directory", ""},
	{"uninstall_unregistered_extensions_properly", "TestVersionAndManifest", ""},
	{"report_status_permanent / report_status_resource_gone", "protocol/platform.TestFact17StatusGoesThroughTheHostThenDirectly", ""},
	{"download_failure_permanent_ProtocolError · ext_handler_io_error", "TestVersionAndManifest test/handlers.TestDiskFull test/handlers.TestReadOnly", ""},
	{"initialise_and_use_command_execution_log_for_extensions", "TestContractOnDisk", ""},
	{"no_reporting_status", accept + "no_reporting_status", "for 30 min; then it is an error, if nothing of it runs"},
	{"wait_for_handler_completion_no_status / success_status / error_status", "TestDependencyWaits TestSequencing TestDependencyFails", "the last word is what the handler said, not always warning"},
	{"not_create_placeholder_for_single_config_extensions", accept + "not_create_placeholder_for_single", ""},
	{"include_part_of_status_in_ext_handler_message", accept + "include_part_of_status", ""},
	{"get_ext_handling_status / is_ext_handling_complete", "extensions/handler.TestParseStatus TestDependencyFails", ""},
	{"version_decide_autoupgrade_internalversion / version_decide_between_minor_versions", "extensions/plan.TestVersions TestVersionAndManifest protocol/wire.TestManifestVersions", ""},
	{"extensions_disabled", "TestGates/extensions disabled", ""},
	{"extensions_deleted", accept + "extensions_deleted", ""},
	{"install_failure(+_check_exception_handling) / enable_failure / disable_failure", "TestFailures " + accept + "disable_failure", ""},
	{"uninstall_failure", "TestUninstallAlways", ""},
	{"upgrade_failure_when_new_version_update_fails", "TestUpdateOnFailure/update fails", ""},
	{"upgrade_failure_when_prev_version_disable_fails", "TestUpdateOnFailure/old disable fails", ""},
	{"…_and_recovers_on_next_incarnation · …_incorrect_zip", "TestUpdateRecovers " + accept + "upgrade_failure_incorrect_zip", ""},
	{"old_handler_reports_failure_on_disable_fail_on_update", accept + "old_handler_reports_failure_on_disable", ""},
	{"upgrade_failure_with_exception_handling", "TestUpdateOnFailure", ""},
	{"continue_on_update_failure", "TestUpdateOnFailure/old disable fails, forgiven TestUpdateOnFailure/old uninstall fails, forgiven " + accept + "continue_on_update_failure_enable", ""},
	{"uninstall_rc_env_var_should_report_not_run_for_non_update_calls", "TestContractOnDisk " + accept + "ext_path_and_version_env_variables", ""},
	{"ext_path_and_version_env_variables_set_for_ever_operation", accept + "ext_path_and_version_env_variables", ""},
	{"ext_sequence_no_should_be_set_for_every_command_call / from_within_extension", accept + "ext_path_and_version_env_variables", ""},
	{"correct_exit_code_should_be_set_on_uninstall_cmd_failure", "TestUpdateOnFailure/old uninstall fails, forgiven", ""},
	{"persist_goal_state_aggregate_status_until_new_incarnation", accept + "persist_goal_state_aggregate_status", ""},
	{"parse_required_features_properly / fail_goal_state_if_required_features_not_supported", "TestGates/Fact22 required features", ""},
	// TestExtensionSequencing, TestInVMArtifactsProfile
	{"handle_ext_handlers", "TestSequencing TestDependencyFails", "a failure stops what depends on it, not its siblings"},
	{"handle_ext_handlers_with_uninstallation", "TestUninstallFirst", ""},
	{"handle_ext_handlers_fallback", accept + "handle_ext_handlers_fallback", ""},
	{"onHold as bool · as string", "protocol/platform.TestArtifactsProfile TestGates/on hold", ""},
	// TestExtensionUpdateOnFailure
	{"non_enabled_ext_should_not_be_disabled_at_ver_update", accept + "non_enabled_ext_should_not_be_disabled", ""},
	{"disable_failed_env_variable… / uninstall_failed_env_variable…", "TestUpdateOnFailure", ""},
	{"extension_error_should_be_raised", "TestUpdateOnFailure", ""},
	{"failed_env_variables_should_be_set_from_within_extension_commands", "TestUpdateOnFailure " + accept + "ext_path_and_version_env_variables", ""},
	{"correct_exit_code_should_set_on_disable_cmd_failure · timeout_code_should_set_on_cmd_timeout · success_code", "TestUpdateOnFailure " + accept + "timeout_code_should_set_on_cmd_timeout", ""},
	// TestCollectExtensionStatus
	{"collect_ext_status · for_invalid_json · json_exceptions · parse_ext_status_exceptions", "extensions/handler.TestParseStatus " + accept + "include_part_of_status", ""},
	{"even_when_config_dir_deleted", accept + "even_when_config_dir_deleted", ""},
	{"very_large_status_message · very_large_…_multiple_substatus_nodes", "extensions/handler.TestLargeStatus", ""},
	{"read_file_read_exceptions", "TestInvalidFilesAffectOneHandler", ""},
	{"transitioning_if_status_file_not_found", accept + "no_reporting_status", ""},
	{"additional locations used · manifest fetch timeout respected", "protocol/transfer.TestEveryAddressAndChannelIsTried protocol/transfer.TestBudgetHoldsWithinADownload", ""},
	// TestExtension
	{"reporting_status_file", "protocol/platform.TestAgainstTheFabric", "no copy of the document in the history: agentctl status -o json has it"},
	{"process_extensions_only_if_allowed", accept + "process_extensions_only_if_allowed", ""},
	{"process_extensions_appropriately_on_artifact_hold", "TestGates/on hold " + accept + "process_extensions_only_if_allowed", ""},
	{"redact_access_tokens_in_extension_status", "extensions/handler.TestParseStatus/sas is redacted test/e2e.TestCanaries", ""},
	{"parsed_correctly · defaults · boolean_fields · report_msg_if_…invalid_values", "extensions/handler.TestHandlerManifest", ""},
	// TestExtensionPolicy
	{"fail_enable_if_extension_disallowed · fail_enable_for_invalid_policy · error_thrown_during_policy_engine_init", "TestPolicy", ""},
	{"fail_uninstall_if_disallowed · enable/uninstall_should_succeed_if_extension_allowed", "TestPolicy", ""},
	{"fail_enable_if_dependent_extension_disallowed", accept + "fail_enable_if_dependent_disallowed", ""},
	{"report_both_policy_failure_and_heartbeat_in_status", "TestHeartbeatOfDeniedExtension", ""},
	{"save_policy_file_to_history_directory", "", "the audit log has each refusal and why; the history is what the platform sent"},
	{"TestSignatureValidationNotEnforced", "TestSignature TestSignatureMatrix", ""},
	// extensions/SPEC.md §21.2
	{"parse_ext_status_should_raise_on_non_array · parse_extension_status00 · 01 · missing/null substatus · empty status", "extensions/handler.TestParseStatus", ""},
	{"extension_sequence_number", "TestHostileNames TestSequenceNumberReused protocol/wire.TestOneBadHandlerHurtsNoOther", "the goal state's number only; a number that is none, or below 0, is a config error"},
	{"report_error_if_plugin_settings_version_mismatch", "protocol/wire.TestOneBadHandlerHurtsNoOther", ""},
	{"command_extension_log_truncates_correctly · set_logger_should_not_reset_the_mode_of_the_log_directory", "TestCommandLog", ""},
	{"report_the_message_in_the_hearbeat", "TestHeartbeat", ""},
	{"LaunchCommand: timeout kills group · non-zero message · does not wait for children · child that fails to start · truncate ≤3200", "TestSuperviseJob TestTimeout extensions/handler.TestOutputText TestFailures", "no second of waiting after the end: what children print later is in the file, and is shown from there"},
	{"LaunchCommand: exact helper env set · supported features env", "TestContractOnDisk", "the agent's own environment does not reach handlers"},
	// extensions/SPEC.md §21.3
	{"download_and_expand · use_existing_package · ignore_existing_invalid · maintain_handler_state", "TestExistingPackage TestDownloadOnce", ""},
	{"alternate URIs on failure / exception / invalid package · exception when all fail", "protocol/transfer.TestEveryAddressAndChannelIsTried TestFailures/bad zip", ""},
	{"rm_ext_handler_dir", "TestUninstallAlways TestRemovalWhileHandlerWrites", ""},
	// extensions/SPEC.md §21.4
	{"parse_multi_config_settings / with_disable_state", "protocol/wire.TestExtensionsConfig", ""},
	{"execute_and_report_multi_config_extensions_properly", "TestMultiConfig", ""},
	{"report_unregistered_version_error_per_extension · retry_handler_installation_per_extension_if_failed · retry_update_sequence_per_extension_if_previous_failed · report_disabled_extension_errors_if_update_failed", accept + "retry_update_sequence_per_extension", "a handler's failure is told for each extension, and is not tried again for each"},
	{"not_install_handler_again_if_installed · only_disable_enabled_extensions_on_update", "TestMultiConfig", ""},
	{"report_extension_status_properly · handle_and_report_enable_errors_properly", "TestMultiConfigEnableFails", ""},
	{"failed_status_for_extensions_disallowed_by_policy", "TestPolicy", ""},
	{"cleanup_extension_state_on_disable · ignore_disable_errors_for_multi_config_extensions", "TestMultiConfig", "<ext>.mrseq goes too"},
	{"create_command_execution_log_per_extension · set_relevant_environment_variables_for_mc", accept + "set_relevant_environment_variables_mc", ""},
	{"transitioning_if_status_file_not_found · report_status_correctly_for_unsupported_goal_state", accept + "no_reporting_status TestGates/Fact22 required features", ""},
	{"fail_handler_if_handler_does_not_support_mc · check_every_time_if_handler_supports_mc", "TestMultiConfigUnsupported", ""},
	{"process_dependency_chain_extensions_properly · report_extension_status_failures_for_all_dependent_extensions", "TestSequencing TestDependencyFails", ""},
	{"stop_execution_if_status_file_contains_errors", accept + "stop_execution_if_status_file_errors", ""},
	// extensions/SPEC.md §21.5
	{"test_policy_engine", "extensions/policy.TestPolicyFile extensions/policy.TestRules TestPolicy", ""},
	{"test_report_status", "protocol/platform.TestFact17StatusGoesThroughTheHostThenDirectly", ""},
	{"test_signature_validation", "TestSignatureMatrix", "verified in Go, so no version of openssl matters"},
	{"test_collect_telemetry_events", "agent/event.TestExtensionTelemetryPipeline agent/event.TestExtensionTelemetryLimits", ""},
	// extensions/SPEC.md §21.6
	{"AgentBvt: extension_operations, run_command, vm_access", "test/handlers.TestPublishedHandlers test/arm.TestAzureCLI", ""},
	{"AgentExtWorkflow", "TestLifecycle TestDowngrade TestBoot TestShutdown TestEnableEveryStart", "a restart enables nothing unless Extensions.EnableEveryStart=y"},
	{"ExtensionUpdate", "TestUpdateOnFailure", ""},
	{"ExtensionsDisabled", "TestGates/extensions disabled", ""},
	{"ExtSequencing, ExtPolicyWithDependencies", "TestSequencing TestDependencyFails " + accept + "fail_enable_if_dependent_disallowed", ""},
	{"ExtensionPolicy", "TestPolicy", "a denied delete fails at once instead of timing out"},
	{"ExtSignatureValidation", "TestSignature", ""},
	{"MultiConfigExt", "TestMultiConfig test/handlers.TestPublishedHandlers", ""},
	{"ExtTelemetryPipeline", "agent/event.TestExtensionTelemetryPipeline test/handlers.TestPublishedHandlers", ""},
	{"ExtCgroups, AgentCgroups", "TestScope", "limits of the slices in test/nspawn; the agent never disables itself over a foreign process"},
	{"KeyvaultCertificates, FIPS, Hibernation", "protocol/platform.TestFact01And05CipherDecidesTransportAndFailureIsNotFatal protocol/platform.TestFact06HibernateBringsOtherCertificatesUnderTheSameIncarnation", ""},
	{"NoOutboundConnections", "protocol/platform.TestHostOnlyNeverLeaves protocol/platform.TestRolesOfTheChannelsSwap", ""},
	{"AgentStatus, AgentNotProvisioned, AgentWaitForCloudInit", "TestGates/gate agent.TestModes", ""},
	// extensions/SPEC.md §21.7
	{"1 real handlers", "test/handlers.TestPublishedHandlers", "look-alikes: the originals are not ours to ship"},
	{"2 HandlerEnvironment byte test", "TestContractOnDisk test/handlers.TestPublishedHandlers", ""},
	{"3 child holding stdout", "TestSuperviseJob test/extlab.TestConformance", ""},
	{"4 status files", "TestInvalidFilesAffectOneHandler extensions/handler.TestParseStatus extensions/handler.TestStatusMemory TestIncompleteStatusFile", ""},
	{"5 zip-slip, symlink and bomb packages", "TestUnpack", ""},
	{"6 kill -9 at every step", "TestKillAgent TestRestartDuring", ""},
	{"7 ENOSPC", "test/handlers.TestDiskFull", ""},
	{"8 agent environment containing VERSION", "TestContractOnDisk test/handlers.TestPublishedHandlers", ""},
	{"9 foreign foo-1.2", "TestAbsent", ""},
	{"10 control plane clients", "test/arm.TestAzureCLI", ""},
}

// TestMatrix: every row has a test or a reason, and the tests exist.
func TestMatrix(t *testing.T) {
	t.Parallel()
	sources := map[string]string{}
	source := func(dir string) string {
		if s, ok := sources[dir]; ok {
			return s
		}
		files, err := filepath.Glob(filepath.Join("..", dir, "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Errorf("no tests in %s: %v", dir, err)
		}
		var b strings.Builder
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if filepath.Base(f) != "matrix_test.go" {
				b.Write(text)
			}
		}
		sources[dir] = b.String()
		return b.String()
	}
	// Names of subtests have spaces in them, so split at "Test".
	begin := regexp.MustCompile(`(?:^| )((?:[a-z0-9/]+\.)?Test[A-Za-z0-9_]*)`)
	for _, r := range matrix {
		if r.where == "" && r.otherwise == "" {
			t.Errorf("%s: neither a test nor a reason", r.name)
		}
		at := begin.FindAllStringSubmatchIndex(r.where, -1)
		for i, m := range at {
			end := len(r.where)
			if i+1 < len(at) {
				end = at[i+1][0]
			}
			test, sub, _ := strings.Cut(r.where[m[3]:end], "/")
			full := r.where[m[2]:m[3]] + test
			dir, name, ok := strings.Cut(full, ".")
			if !ok {
				dir, name = "extensions", full
			}
			if !strings.Contains(source(dir), "\nfunc "+name+"(") {
				t.Errorf("%s: there is no %s in %s", r.name, name, dir)
			}
			if sub = strings.TrimSpace(sub); sub != "" && !strings.Contains(source(dir), `"`+sub+`"`) {
				t.Errorf("%s: %s has no %q", r.name, name, sub)
			}
		}
	}
}

// Package log makes the loggers of the agent and of its one-shot commands.
// Records are zerolog's; log.go says where they go, text.go writes them as
// lines, and journal.go uses the native protocol of systemd's journal, which
// preserves fields. Secrets are masked in every record.
//
// It imports only agent/host (the log file) and agent/secret (masking).
package log

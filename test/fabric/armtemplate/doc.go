// Package armtemplate implements the language of deployment templates of Azure
// Resource Manager: it reads a template, evaluates its parameters, variables,
// expressions and outputs, and lists its resources with their dependencies. It
// deploys nothing and does not depend on the emulator: functions that ask about
// the place of the deployment use the interface Host.
//
// Begin with template.go; then resources.go (loops, conditions, dependencies),
// evaluate.go and expression.go, and functions.go, the table of functions.
// Error messages are the platform's where clients show them to people.
//
// The language:
// https://learn.microsoft.com/azure/azure-resource-manager/templates/syntax
package armtemplate

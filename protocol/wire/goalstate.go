package wire

import (
	"errors"
	"strings"

	"github.com/azguest/azguest/protocol"
)

// ErrIncomplete is a goal state without a role instance. It occurs for a
// moment while the platform changes something (protocol/SPEC.md §4.2).
var ErrIncomplete = errors.New("goal state without role instance")

// GoalState is the document of protocol/SPEC.md §4.1: ids, and the addresses
// of the other documents, which must be requested unchanged (only white space
// around them is trimmed).
type GoalState struct {
	Incarnation, ContainerID, InstanceID, ConfigName string

	HostingEnvironmentConfig, SharedConfig, ExtensionsConfig string
	Certificates, RemoteAccess                               string
}

// ParseGoalState reads a goal state. With ErrIncomplete the ids that are
// there are returned too.
func ParseGoalState(b []byte) (*GoalState, error) {
	root, err := parse("goalstate", b)
	if err != nil {
		return nil, err
	}
	container := root.find("Container")
	if !container.ok() {
		container = root
	}
	role := container.below("RoleInstance")
	g := &GoalState{
		Incarnation:              root.below("Incarnation").text(),
		ContainerID:              container.below("ContainerId").text(),
		RemoteAccess:             container.below("RemoteAccessInfo").text(),
		InstanceID:               role.below("InstanceId").text(),
		ConfigName:               role.below("ConfigName").text(),
		HostingEnvironmentConfig: role.below("HostingEnvironmentConfig").text(),
		SharedConfig:             role.below("SharedConfig").text(),
		ExtensionsConfig:         role.below("ExtensionsConfig").text(),
		Certificates:             role.below("Certificates").text(),
	}
	switch {
	case g.ContainerID == "" || g.Incarnation == "":
		return nil, &protocol.DocumentError{Doc: "goalstate", Err: errors.New("no container ID or incarnation")}
	case !role.ok():
		return g, ErrIncomplete
	}
	return g, nil
}

// DeploymentID is the part of a ConfigName up to the first dot.
func DeploymentID(configName string) string {
	id, _, _ := strings.Cut(configName, ".")
	return id
}

// Names are the names in the hosting environment document
// (protocol/SPEC.md §4.3).
type Names struct{ VM, Role, Tenant string }

// ParseHostingEnvironment reads the names; any may be absent.
func ParseHostingEnvironment(b []byte) (Names, error) {
	root, err := parse("hostingEnvironmentConfig", b)
	if err != nil {
		return Names{}, err
	}
	return Names{
		VM:     root.below("Incarnation").attr("instance"),
		Role:   root.below("Role").attr("name"),
		Tenant: root.below("Deployment").attr("name"),
	}, nil
}

// CheckSharedConfig returns an error if b is not the shared configuration, which
// only programs of other vendors read.
func CheckSharedConfig(b []byte) error {
	_, err := parse("sharedConfig", b)
	return err
}

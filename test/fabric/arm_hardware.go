package fabric

import (
	"net/http"
	"strings"
)

// The devices of a virtual machine that clients look up before they work with
// it: one disk, one network interface.

const diskGB = 30

func (f *Fabric) groupID() string {
	return "/subscriptions/" + f.opts.Subscription + "/resourceGroups/" + f.opts.ResourceGroup
}

func (v *VM) diskName() string { return v.name + "_OsDisk" }

func (v *VM) diskID() string {
	return v.f.groupID() + "/providers/Microsoft.Compute/disks/" + v.diskName()
}

func (v *VM) nicName() string { return v.name + "-nic" }

func (v *VM) nicID() string {
	return v.f.groupID() + "/providers/Microsoft.Network/networkInterfaces/" + v.nicName()
}

// deviceRoutes serves disks and network interfaces, which are read-only.
func (f *Fabric) deviceRoutes(r *request, p armPath) (*answer, *apiError, bool) {
	const inGroup = "subscriptions/*/resourcegroups/*/providers/"
	for _, kind := range []struct {
		pattern string
		names   func(*VM) string
		show    func(*VM) object
	}{
		{inGroup + "microsoft.compute/disks", (*VM).diskName, (*VM).disk},
		{inGroup + "microsoft.network/networkinterfaces", (*VM).nicName, (*VM).nic},
	} {
		v, one := p.match(kind.pattern + "/*")
		if !one {
			var all bool
			if v, all = p.match(kind.pattern); !all {
				continue
			}
		}
		if r.Method != http.MethodGet {
			return nil, notAllowed(r), true
		}
		if err := f.checkGroup(v[0], v[1]); err != nil {
			return nil, err, true
		}
		list := []any{}
		for _, vm := range f.vms {
			if !strings.EqualFold(v[1], f.opts.ResourceGroup) {
				break
			}
			if one && strings.EqualFold(v[2], kind.names(vm)) {
				return replyJSON(http.StatusOK, kind.show(vm)), nil, true
			}
			list = append(list, kind.show(vm))
		}
		if one {
			return nil, refuse(http.StatusNotFound, "ResourceNotFound", "The Resource '%s/%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
				strings.Join(p.segments[5:7], "/"), v[2], v[1]), true
		}
		return replyJSON(http.StatusOK, object{"value": list}), nil, true
	}
	return nil, nil, false
}

func (v *VM) disk() object {
	return object{
		"id": v.diskID(), "name": v.diskName(), "type": "Microsoft.Compute/disks", "location": v.f.opts.Location, "managedBy": v.resourceID(),
		"sku": object{"name": "Premium_LRS", "tier": "Premium"},
		"properties": object{
			"osType": "Linux", "hyperVGeneration": "V2", "creationData": object{"createOption": "FromImage"}, "diskSizeGB": diskGB,
			"diskState": "Attached", "provisioningState": stateSucceeded, "timeCreated": v.created.UTC().Format(armTime),
			"encryption": object{"type": "EncryptionAtRestWithPlatformKey"},
		},
	}
}

func (v *VM) nic() object {
	return object{
		"id": v.nicID(), "name": v.nicName(), "type": "Microsoft.Network/networkInterfaces", "location": v.f.opts.Location,
		"properties": object{
			"provisioningState": stateSucceeded, "primary": true, "macAddress": macWithDashes(v.mac), "virtualMachine": object{"id": v.resourceID()},
			"ipConfigurations": []any{object{
				"id": v.nicID() + "/ipConfigurations/ipconfig1", "name": "ipconfig1", "type": "Microsoft.Network/networkInterfaces/ipConfigurations",
				"properties": object{"provisioningState": stateSucceeded, "primary": true, "privateIPAddress": v.address, "privateIPAddressVersion": "IPv4", "privateIPAllocationMethod": "Dynamic"},
			}},
		},
	}
}

// macWithDashes formats 0022480A1B2C as the network API does:
// 00-22-48-0A-1B-2C.
func macWithDashes(mac string) string {
	mac = strings.NewReplacer(":", "", "-", "").Replace(mac)
	var parts []string
	for i := 0; i+2 <= len(mac); i += 2 {
		parts = append(parts, mac[i:i+2])
	}
	return strings.ToUpper(strings.Join(parts, "-"))
}
